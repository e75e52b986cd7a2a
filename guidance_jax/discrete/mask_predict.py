"""Mask-Predict, decoding of conditional masked language models (Ghazvininejad et al. 2019, arXiv 1904.09324, section
4).

every mask gets its most probable token; then the least confident sigma_s L tokens are masked again
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import FAILED, argmax_token, draw_token, pytree
from guidance_jax.discrete.ancestral import TokenSolver
from guidance_jax.discrete.process import Absorbing


@pytree
class MaskPredict(TokenSolver):
    """Decide all masks in parallel and mask the least confident tokens again. One network call per step.

    The number of masks follows the schedule's sigma. The confidence of a token is the probability it had when it was
    last predicted, guidance included. Given tokens have the highest confidence. The samples do not follow the model's
    distribution.

    Attributes:
      temperature: the temperature of the draw of tokens; None takes the most probable token.
      top_k, top_p: as in `Ancestral`.

    Raises:
      Refused: a temperature or `top_p` that is not positive; a `top_k` below 1; a process without masks.
    """

    temperature: Any = None
    top_k: Any = None
    top_p: Any = None

    takes = Absorbing

    def init(self, x):
        return jnp.zeros(x.shape)

    def step(self, pred, t, s, evaluate, state, key):
        process: Any = pred.process
        log_p = jax.nn.log_softmax(self.truncate(pred).log_weights)
        free = process.free(pred.x)
        chosen = argmax_token(log_p) if self.temperature is None else draw_token(key, log_p)
        x = jnp.where(free, chosen.astype(pred.x.dtype), pred.x)
        own = jnp.take_along_axis(log_p, chosen[:, None], 1)[:, 0]
        confidence = jnp.where(free, own, state)
        rank = jnp.argsort(jnp.argsort(confidence))  # the least confident first
        again = rank < jnp.floor(s.sigma * len(x) + 1e-4)
        return jnp.where(again & (x != FAILED), process.mask, x), confidence
