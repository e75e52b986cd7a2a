"""Guidance-free training (Chen et al. 2025, arXiv 2501.15420): one model for every scale, without a teacher.

    | output(c, scale) / scale + (1 - 1 / scale) sg output(null, 1) - target |^2

sg is the stop-gradient. At the minimum D(c, scale) = D_u + scale (D_c - D_u): the prediction of CFG at each scale, with
one network call per step. The paper's input is beta = 1 / scale, which is drawn uniformly.
"""

import jax
import jax.numpy as jnp

from guidance_jax.core import pytree, static
from guidance_jax.training.losses import Denoising
from guidance_jax.training.model_guidance import check_learned


@pytree
class GuidanceFree(Denoising):
    """Train a network with a `scale` input: its output, mixed with its unconditional output, has to match the target.

    A training step calls the network twice for each sample. Sample with `Network(..., scale=...)`.

    Attributes:
      most: the largest scale that the network learns, 1 or more; 1 / scale is uniform on [1 / most, 1].
      apply: apply(params, x, t, cond, scale=...) -> output.
      schedule, parameterization, dropout, levels: as in `Denoising`.
      null: the null label, required here.
      labelled: must be True here: whether the network gets the label.

    Raises:
      Refused: no null label, or `labelled=False`; a `most` below 1.
    """

    most: float = static(default=4.0, kw_only=True)

    def __post_init__(self):
        check_learned(self, self.most)

    def residual(self, ask, cond, target, key):
        beta = jax.random.uniform(key, minval=1 / self.most, maxval=1.0)
        beta = jnp.where(cond == self.null, 1.0, beta)
        free = jax.lax.stop_gradient(ask(jnp.full_like(cond, self.null), scale=jnp.ones(())))
        return beta * ask(cond, scale=1 / beta) + (1 - beta) * free - target
