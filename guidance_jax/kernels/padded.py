"""Idle steps at the end of the levels, so that different numbers of steps run the same compiled program.

    padded(levels, 64)     64 steps: those of `levels`, then idle ones that stay at the last level
    Padded(kernel)         skips idle steps: they cost nothing but their place in the scan

The samples are those of the kernel on `levels` themselves.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import KernelWrapper, Level, Refused, concrete, pytree


def pad_levels(levels: Level, steps: int) -> Level:
    """`levels` with as many idle steps at the end as make `steps` of them.

    Raises:
      Refused: fewer steps than `levels` has.
    """
    missing = steps + 1 - len(levels.t)
    if missing < 0:
        raise Refused(f"a bucket of {steps} steps cannot hold {len(levels.t) - 1}; use a larger one")
    return Level(*(jnp.concatenate([a, jnp.broadcast_to(a[-1], missing)]) for a in levels))


@pytree
class Padded(KernelWrapper):
    """`inner`, but a step that stays at its level is skipped.

    Attributes:
      inner: any kernel.
    """

    inner: Any

    def moving(self, levels):
        """`levels` without idle steps at the end, where they are known."""
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
