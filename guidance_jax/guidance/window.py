"""Scales that are not one number: a guidance interval, a ramp, and one number per class.

Interval: Kynkaanniemi et al. 2024 (arXiv 2404.07724). Their window is in noise level, which is the only definition that
does not move with the number of steps; fractions of steps and process time do.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import concrete, pytree
from guidance_jax.guidance.base import active, strength


@pytree
class Window:
    """`scale` where lo < sigma / alpha <= hi, else off (1 for contrasts, 0 for gradients), and the work is skipped.

    Raises:
      ValueError: an empty window.
    """

    scale: Any
    lo: Any
    hi: Any

    def __post_init__(self):
        numbers = all(isinstance(a, int | float | np.number | np.ndarray | jax.Array) for a in (self.lo, self.hi))
        if numbers and concrete((self.lo, self.hi)) and np.any(np.asarray(self.lo) >= np.asarray(self.hi)):
            raise ValueError(
                f"the window is empty: lo={self.lo} is not below hi={self.hi}; give sigma / alpha, lo first"
            )

    def active(self, level):
        return (self.lo < level.ratio) & (level.ratio <= self.hi)

    def strength(self, level, cond, off):
        return jnp.where(self.active(level), strength(self.scale, level, cond, off), off)


@pytree
class Ramp:
    """A scale that rises towards the data (Wang et al. 2024, arXiv 2404.13040, section 4): least where noise is most.

        off + (scale - off) (power + 1) (1 - r)^power,   r = sigma / (alpha + sigma)

    r is the clock of rectified flow, which every schedule can read; the mean over it is that of the constant `scale`,
    which power 0 is. power 1 is their linear schedule.
    """

    scale: Any
    power: Any = 1.0

    def active(self, level):
        return active(self.scale, level)

    def strength(self, level, cond, off):
        rise = (self.power + 1) * (level.alpha / (level.alpha + level.sigma)) ** self.power
        return off + (strength(self.scale, level, cond, off) - off) * rise


@pytree
class PerClass:
    """`table[label]`: one scale per class, for conditions that are integer labels."""

    table: Any  # (num_classes,)

    def strength(self, level, cond, off):
        return self.table[cond]
