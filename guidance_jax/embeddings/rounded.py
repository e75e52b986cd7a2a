"""The clamping trick of Diffusion-LM (Li et al. 2022, arXiv 2205.14217, section 4.2): commit to words on the way.

x0 <- the nearest embedding, per position
"""

from typing import Any

import jax.numpy as jnp

from guidance_jax.core import FAILED, GaussianDiffusion, nan_unless, pytree
from guidance_jax.embeddings.network import nearest
from guidance_jax.guidance.base import Guidance
from guidance_jax.guidance.scales import strength


@pytree
class Rounded(Guidance):
    """Move the clean estimate towards the nearest embeddings by `share`: 0 is the model, 1 the published trick.

    The guided prediction still satisfies alpha x0 + sigma eps = x. No network call of its own.

    Attributes:
      inner: any denoiser of embeddings.
      table: (V, d), the embeddings.
      share: from 0 to 1: a number, `Window` (the authors' code has a threshold in t) or a function of the level.
    """

    inner: Any
    table: Any
    share: Any = 1.0

    takes = GaussianDiffusion

    def __call__(self, x, level, cond, state, key):
        pred, state = self.inner(x, level, cond, state, key)
        token = nearest(pred.x0, self.table)
        words = nan_unless((token != FAILED)[..., None], self.table[jnp.maximum(token, 0)]).astype(pred.x0.dtype)
        share = strength(self.share, level, cond, off=0.0)
        return pred.towards(jnp.where(share == 0, pred.x0, pred.x0 + share * (words - pred.x0)), level), state
