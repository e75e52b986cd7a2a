"""Training for internal guidance (Zhou et al. 2025, arXiv 2512.24176): both heads on the same target."""

import jax.numpy as jnp

from guidance_jax.core import pytree, static
from guidance_jax.training.losses import Denoising


@pytree
class InternalHeads(Denoising):
    """`Denoising` of a function with two outputs, `TwoHeaded`'s; the early one's counts `weight` times.

    Attributes:
      weight: of the early head.
      apply, schedule, parameterization, null, dropout, labelled, levels: as in `Denoising`.
    """

    weight: float = static(default=0.5, kw_only=True)

    def residual(self, ask, cond, target, key):
        output, early = ask(cond)
        return jnp.stack([output - target, self.weight**0.5 * (early - target)])
