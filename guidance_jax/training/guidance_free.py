"""Guidance-free training (Chen et al. 2025, arXiv 2501.15420): one model for every scale, without a teacher.

    | output(c, scale) / scale + (1 - 1 / scale) sg output(null, 1) - target |^2

Where nothing changes any more D(c, scale) = D_u + scale (D_c - D_u), the CFG of each scale at one call a step. The
paper's input is beta = 1 / scale, which is drawn uniformly.
"""

import jax
import jax.numpy as jnp

from guidance_jax.core import pytree, static
from guidance_jax.training.losses import Denoising
from guidance_jax.training.model_guidance import check_learned


@pytree
class GuidanceFree(Denoising):
    """`Denoising` of what a network with a `scale` input says, mixed with its unconditional output. Two calls a step.

    Sample it with `Network(..., scale=...)`.

    Attributes:
      most: the largest scale that it learns; 1 / scale is uniform on [1 / most, 1].
      apply: apply(params, x, t, cond, scale=...) -> output.
      schedule, parameterization, null, dropout, labelled, levels: as in `Denoising`; `null` is needed.

    Raises:
      Refused: no null label; a largest scale below 1.
    """

    most: float = static(default=4.0, kw_only=True)

    def __post_init__(self):
        check_learned(self, self.most)

    def residual(self, ask, cond, target, key):
        beta = jax.random.uniform(key, minval=1 / self.most, maxval=1.0)
        beta = jnp.where(cond == self.null, 1.0, beta)
        free = jax.lax.stop_gradient(ask(jnp.full_like(cond, self.null), scale=jnp.ones(())))
        return beta * ask(cond, scale=1 / beta) + (1 - beta) * free - target
