"""Noise levels, and what follows from two of them."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from guidance_jax._typing import Array, Float
from guidance_jax.core.pytrees import concrete


class Refused(ValueError):
    """What the library refuses, in one line: what came, what was expected, what to write."""


def first_line(error: BaseException) -> str:
    """The type and the first line of somebody else's error, for the refusal that it becomes."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


class Level(NamedTuple):
    """A noise level; with a leading axis, a sequence of them. What alpha and sigma mean is the space's affair.

        images, vectors, embeddings   x_t = alpha x_0 + sigma eps
        tokens                        a token is kept with probability alpha
        text                          alpha tokens follow the first so far, sigma are to come

    Attributes:
      t: the schedule's own clock: what the network is told.
      alpha: the share of signal; what the arithmetic uses, with sigma.
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
        """The level (or the slice of levels) at `index` of a sequence."""
        return Level(*(a[index] for a in self))

    def noise(self, x0: Float[Array, "*event"], eps: Float[Array, "*event"]) -> Float[Array, "*event"]:
        """alpha x0 + sigma eps."""
        return self.alpha * x0 + self.sigma * eps


CLEAN = Level(0.0, 1.0, 0.0)  # of clean samples


def fresh_share(t: Level, s: Level) -> Any:
    """1 - rho^2 with rho = alpha_t sigma_s / (alpha_s sigma_t): how much of the noise at t is not in that at s."""
    return jnp.maximum(1 - (t.alpha * s.sigma / (s.alpha * t.sigma)) ** 2, 0)


def posterior_variance(t: Level, s: Level) -> Any:
    """beta-tilde, the variance of q(x_s | x_t, x_0): sigma_s^2 (1 - (alpha_t sigma_s / (alpha_s sigma_t))^2).

    `t` is the noisier level, `s` the next.
    """
    return s.sigma**2 * fresh_share(t, s)


def check_signal(levels: Level, what: str) -> None:
    """Raise `Refused`, for `what`, if the first of `levels` are known and have no signal, alpha = 0."""
    if concrete(levels.alpha) and (np.asarray(levels.alpha) == 0).any():
        raise Refused(
            f"{what} says nothing where there is no signal (alpha = 0, the first level); start below it, for example "
            "levels(steps, start=0.999)"
        )


def check_levels(levels: Level) -> None:
    """Raise `Refused` unless `levels` are at least two whose noise-to-signal ratio falls strictly."""
    shapes = [jnp.shape(a) for a in levels]
    if len(set(shapes)) != 1 or len(shapes[0]) != 1 or shapes[0][0] < 2:
        raise Refused(
            f"levels must be three vectors of one length >= 2, got shapes {shapes}; write schedule.levels(50)"
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
