"""Ancestral sampling of tokens (D3PM, MDLM, UDLM), and of the next token of a language model.

    x_s ~ q(x_s | x_t, x0 ~ p(x0 | x_t)), every position by itself

The one solver of all token models: what a step means is the process's affair.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import pytree


@pytree
class Ancestral:
    """Exact in the limit of small steps; for a language model exact. One network call a step.

    With guidance by `PredictorGuidance` this is D-CBG, with `TAG` its first-order form, with `CFG` D-CFG (Schiff et
    al.).

    Attributes:
      temperature: divides log p; below 1 sharpens. None leaves it alone.
      top_k: keeps the k most probable tokens. None keeps all.
      top_p: keeps the most probable tokens that together have probability `top_p` (nucleus sampling). None keeps all.

    Raises:
      ValueError: a temperature or top_p that is not positive, a top_k below 1.
    """

    temperature: Any = None
    top_k: Any = None
    top_p: Any = None

    tokens = True  # a solver of token models

    def __post_init__(self):
        for name, least in (("temperature", 0), ("top_p", 0), ("top_k", 1)):
            value = getattr(self, name)
            if isinstance(value, int | float) and (value < least or value == 0):
                raise ValueError(f"{name} must be positive, got {value}; leave it out for plain sampling")

    def init(self, x):
        return ()

    def truncated(self, pred):
        """The prediction with temperature, top-k and top-p applied to log p."""
        log_p = pred.log_p
        if self.temperature is not None:
            log_p = jax.nn.log_softmax(log_p / self.temperature)
        if self.top_k is not None or self.top_p is not None:
            falling = -jnp.sort(-log_p, -1)
            rank = jnp.arange(log_p.shape[-1])
            kept = jnp.ones_like(rank, bool) if self.top_k is None else rank < self.top_k
            if self.top_p is not None:  # the first token always stays
                before = jnp.cumsum(jnp.exp(falling), -1) - jnp.exp(falling)
                kept = kept & ((before < self.top_p) | (rank == 0))
            least = jnp.min(jnp.where(kept, falling, jnp.inf), -1, keepdims=True)
            log_p = jax.nn.log_softmax(jnp.where(log_p >= least, log_p, -jnp.inf))
        return dataclasses.replace(pred, log_p=log_p)

    def log_rates(self, pred, t):
        """log of the tilted rate of every jump, (L, V); what neither model nor guide allows stays impossible."""
        rates = pred.process.log_rates(pred.x, pred.log_p, t) + pred.tilt
        return jnp.where(jnp.isnan(rates), -jnp.inf, rates)

    def kernel(self, pred, t, s):
        """log q(x_s | x_t) of every position, (positions, states)."""
        return pred.process.transition(self.truncated(pred), t, s)

    def place(self, pred, drawn, s):
        """The sequence at level `s` from one draw of every row of `kernel`."""
        return pred.process.place(pred.x, drawn, s)

    def step(self, pred, t, s, evaluate, state, key):
        return self.place(pred, jax.random.categorical(key, self.kernel(pred, t, s)), s), state
