"""Noise levels, and quantities computed from two of them."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from guidance_jax._typing import Array, Float
from guidance_jax.core.pytrees import concrete


class Refused(ValueError):
    """The error for input that the library refuses. One line says what came, what was expected, what to write."""


def first_line(error: BaseException) -> str:
    """Return the type and the first line of another library's error, for the message of a `Refused`."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


class Level(NamedTuple):
    """A noise level, or a sequence of levels if the fields have a leading axis. The space defines alpha and sigma.

        images, vectors, embeddings   x_t = alpha x_0 + sigma eps
        tokens                        a token is kept with probability alpha
        text                          alpha tokens follow the first so far, sigma tokens are still to be written

    Attributes:
      t: the time on the schedule's own clock, an input of the network.
      alpha: the share of signal. Formulas use alpha and sigma.
      sigma: the share of noise, 0 at the clean level.
    """

    t: Any
    alpha: Any
    sigma: Any

    @property
    def ratio(self) -> Any:
        """sigma / alpha, the noise-to-signal ratio: the `sigma` of EDM and of guidance intervals."""
        return self.sigma / self.alpha

    def at(self, index: Any) -> "Level":
        """Return the level (or the slice of levels) at `index` of a sequence."""
        return Level(*(a[index] for a in self))

    def noise(self, x0: Float[Array, "*event"], eps: Float[Array, "*event"]) -> Float[Array, "*event"]:
        """Return alpha x0 + sigma eps."""
        return self.alpha * x0 + self.sigma * eps


CLEAN = Level(0.0, 1.0, 0.0)  # the level of clean samples


def fresh_share(t: Level, s: Level) -> Any:
    """Return 1 - rho^2, rho = alpha_t sigma_s / (alpha_s sigma_t): the share of the variance at t added after s."""
    return jnp.maximum(1 - (t.alpha * s.sigma / (s.alpha * t.sigma)) ** 2, 0)


def posterior_variance(t: Level, s: Level) -> Any:
    """Return beta-tilde, the variance of q(x_s | x_t, x_0): sigma_s^2 (1 - (alpha_t sigma_s / (alpha_s sigma_t))^2).

    `t` is the noisier level, `s` the next.
    """
    return s.sigma**2 * fresh_share(t, s)


def check_signal(levels: Level, what: str) -> None:
    """Raise `Refused` if one of `levels` is known to have no signal, alpha = 0. `what` is the subject of the error."""
    if concrete(levels.alpha) and (np.asarray(levels.alpha) == 0).any():
        raise Refused(
            f"{what} does not determine x0 where there is no signal (alpha = 0, the first level); start at a lower "
            "noise level, for example levels(steps, start=0.999)"
        )


def check_levels(levels: Level) -> None:
    """Raise `Refused` unless there are two `levels` or more and their noise-to-signal ratio falls strictly."""
    shapes = [jnp.shape(a) for a in levels]
    if len(set(shapes)) != 1 or len(shapes[0]) != 1 or shapes[0][0] < 2:
        raise Refused(
            f"levels must be three vectors of equal length >= 2, got shapes {shapes}; write schedule.levels(50)"
        )
    if concrete(levels):
        alpha, sigma = np.asarray(levels.alpha, np.float64), np.asarray(levels.sigma, np.float64)
        falls = alpha[:-1] * sigma[1:] < alpha[1:] * sigma[:-1]
        if not falls.all():
            i = int(np.argmin(falls))
            raise Refused(
                f"levels must fall from noise to data, got sigma/alpha = {sigma[i]:.4g}/{alpha[i]:.4g} then "
                f"{sigma[i + 1]:.4g}/{alpha[i + 1]:.4g} at step {i}; write schedule.levels(50)"
            )
