"""Inpainting by replacement (Song et al. 2021, arXiv 2011.13456); with `Recur`, RePaint (Lugmayr 2022, 2201.09865).

x_s <- mask (alpha_s y + sigma_s z) + (1 - mask) x_s
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import check, normal, pytree, static
from guidance_jax.operators import whole


@pytree
class Inpaint:
    """After every step of `kernel` the known entries are those of y, noised to the level: exact y at the clean level.

    `mask` is 1 where y is known and broadcasts against x. A mask of 0 is the kernel. RePaint is
    `Recur(Inpaint(kernel, mask), repeats)`. Replacement ignores how the unknown part bears on the known one: for the
    posterior use `MMPS` with `Mask`, or `Twisted`.

    Raises:
      ValueError: a measurement of another shape than the sample.
    """

    kernel: Any
    mask: Any
    observed: Callable = static(default=whole)

    def init(self, x):
        return self.kernel.init(x)

    def check(self, levels, shape, cond):
        check(self.kernel, levels, shape, cond)

    def __call__(self, carry, t, s, cond, key):
        first, second = jax.random.split(key)
        carry = self.kernel(carry, t, s, cond, first)
        y = self.observed(cond)
        if jnp.shape(y) != carry.x.shape:
            raise ValueError(
                f"Inpaint takes measurements of the shape of a sample {carry.x.shape}, got {jnp.shape(y)}; fill the "
                "unknown entries with zeros"
            )
        known = s.noise(y, normal(second, carry.x))
        return carry._replace(x=jnp.where(jnp.asarray(self.mask) > 0, known, carry.x))
