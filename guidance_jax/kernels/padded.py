"""Idle steps at the end of the levels, so that different numbers of steps run the same compiled program.

    pad_levels(levels, 64)   64 steps: those of `levels`, then idle ones that stay at the last level
    Padded(kernel)           skips idle steps, which then cost only an iteration of the scan

The samples are the same as those of the kernel on `levels`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import KernelWrapper, Level, Refused, concrete, pytree


def pad_levels(levels: Level, steps: int) -> Level:
    """Return `levels` with idle steps appended, so that they have `steps` steps.

    Raises:
      Refused: fewer steps than `levels` has.
    """
    missing = steps + 1 - len(levels.t)
    if missing < 0:
        raise Refused(f"cannot pad {len(levels.t) - 1} steps to {steps}; pass steps={len(levels.t) - 1} or more")
    return Level(*(jnp.concatenate([a, jnp.broadcast_to(a[-1], missing)]) for a in levels))


@pytree
class Padded(KernelWrapper):
    """Run `inner`, but skip each step that stays at its level.

    Attributes:
      inner: any kernel.
    """

    inner: Any

    def moving(self, levels):
        """Return `levels` without idle steps at the end; unchanged if they are traced."""
        if not concrete(levels):
            return levels
        alpha, sigma = np.asarray(levels.alpha), np.asarray(levels.sigma)
        idle = np.cumprod(((alpha[1:] == alpha[:-1]) & (sigma[1:] == sigma[:-1]))[::-1]).sum()
        return levels.at(slice(0, len(alpha) - int(idle)))

    def check(self, levels, shape, cond):
        super().check(self.moving(levels), shape, cond)

    def __call__(self, carry, t, s, cond, key):
        idle = (t.alpha == s.alpha) & (t.sigma == s.sigma)
        return jax.lax.cond(idle, lambda: carry, lambda: self.inner(carry, t, s, cond, key))
