"""FasterCache's cache of guidance (Lyu et al. 2024, arXiv 2410.19355, section 3.3): fewer unconditional calls.

At a level without an unconditional call, the unconditional noise is estimated, by frequency, from the conditional one
and their last difference d:

    eps_u ~ IFFT(low(F eps_c) + a low(d) + high(F eps_c) + b high(d)),   d = F eps_u - F eps_c of the last full step

with a = boost at low noise and b = boost at high noise, else 1.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import GaussianDiffusion, Refused, concrete, pytree
from guidance_jax.guidance.conditions import TwoConditions
from guidance_jax.guidance.scales import active

RADIUS = 0.2  # of the low frequencies, as a share of the shorter side


def axes(x: Any) -> tuple[int, ...]:
    """Return the axes of a sample's Fourier transform: height and width of an image, the only axis of a vector."""
    return tuple(range(max(1, x.ndim - 1)))


def spectrum(x: Any) -> Any:
    """Return the Fourier transform of one sample."""
    return jnp.fft.fftn(x, axes=axes(x))


def is_low(x: Any) -> Any:
    """Return a boolean mask of the low frequencies of a sample like `x`; it broadcasts against the spectrum."""
    sides = x.shape[: len(axes(x))]
    square = sum(
        (np.fft.fftfreq(n) * n).reshape([-1 if i == j else 1 for j in range(x.ndim)]) ** 2 for i, n in enumerate(sides)
    )
    return jnp.asarray(np.sqrt(square) <= RADIUS * min(sides))


@pytree
class FasterCache(TwoConditions):
    """Guide like CFG with unconditional calls at some levels only. With unconditional calls at all levels it is CFG.

    Each step makes one network call, or two at the levels in `asked`. These levels are the same for all samples, so the
    call is skipped under `vmap` too. The guided prediction still satisfies alpha x0 + sigma eps = x.

    Attributes:
      inner, null, scale, in_turn: as in `TwoConditions`.
      asked: the clocks of the levels with an unconditional call, such as `levels.t[::2]`. The first level must be among
        them. None for all levels.
      boost: the factor of the last difference d, 1.1 in the paper; see a and b above.
      middle: the sigma / alpha between high and low noise.

    Raises:
      Refused: as `CFG`; levels whose first one is not in `asked`.
    """

    asked: Any = None
    boost: Any = 1.1
    middle: Any = 1.0

    takes = GaussianDiffusion
    aims_at_power = False  # where the call is skipped there is no second prediction

    def check(self, levels, shape, cond):
        super().check(levels, shape, cond)
        if self.asked is None or not concrete((levels, self.asked)):
            return
        if not np.any(np.isclose(np.asarray(self.asked), np.asarray(levels.t)[0])):
            raise Refused(
                "FasterCache needs an unconditional call at the first level, which is not in `asked`; write "
                "levels.t[::2]"
            )

    def memory(self, x):
        return spectrum(jnp.zeros_like(x))

    def needs_unconditional(self, level, memory):
        inside = active(self.scale, level)
        if self.asked is None:
            return inside
        here = jnp.any(jnp.isclose(jnp.asarray(self.asked), level.t))
        return here if inside is None else here & inside

    def rule(self, c, u, w, x, level, memory):
        def keep():
            return u.eps, spectrum(u.eps - c.eps)

        def restore():
            noisy = level.ratio > self.middle
            weight = jnp.where(is_low(x) == ~noisy, self.boost, 1.0)
            return c.eps + jnp.real(jnp.fft.ifftn(weight * memory, axes=axes(x))).astype(c.eps.dtype), memory

        on = self.needs_unconditional(level, memory)
        eps, memory = keep() if on is None else jax.lax.cond(on, keep, restore)
        weak = c.towards(c.x0 + level.sigma / level.alpha * (c.eps - eps), level)
        return c.contrast(weak, w, level), memory
