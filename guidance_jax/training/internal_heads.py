"""Training for internal guidance (Zhou et al. 2025, arXiv 2512.24176): both heads learn the same target."""

import jax.numpy as jnp

from guidance_jax.core import pytree, static
from guidance_jax.training.losses import Denoising


@pytree
class InternalHeads(Denoising):
    """Train both outputs of a network for `TwoHeaded` as `Denoising` does.

    The early head's squared error counts `weight` times.

    Attributes:
      weight: the weight of the early head, 0 or more; the final head has weight 1.
      apply, schedule, parameterization, null, dropout, labelled, levels: as in `Denoising`.
    """

    weight: float = static(default=0.5, kw_only=True)

    def residual(self, ask, cond, target, key):
        output, early = ask(cond)
        return jnp.stack([output - target, self.weight**0.5 * (early - target)])
