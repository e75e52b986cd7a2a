"""Gaussian diffusion of token embeddings: from logits over tokens to a clean estimate, and back to tokens."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import Prediction, check, pytree, static
from guidance_jax.domain import Domain, told
from guidance_jax.network import log_softmax


def nearest(x: Any, table: Any) -> Any:
    """The tokens (L,) whose embeddings, rows of `table` (V, d), are nearest to x (L, d)."""
    distance = jnp.sum(table**2, -1) - 2 * jnp.matmul(x, table.T, precision="highest")
    return jnp.argmin(distance, -1)


@pytree
class EmbeddingNetwork:
    """Score interpolation (CDCD, Dieleman et al. 2022, arXiv 2211.15089, eq. 4): x0 = sum_v p(v | x_t) e_v.

    A denoiser of embeddings (L, d) from `apply(params, x, t, cond, previous) -> logits (L, V)`; being one, it takes
    every solver, CFG, classifier and particle method there is. Self-conditioning is threaded state: `previous` is the
    estimate of the step before, zeros at first.

    With `encode(params, x, t, cond, previous) -> h` and `decode(params, h, t, cond) -> logits` in the place of `apply`,
    hidden states can be guided too (`NOS`, continuous).

    Attributes:
      table: (V, d), the embeddings.
    """

    params: Any
    table: Any
    apply: Any = static(default=None)
    encode: Any = static(default=None)
    decode: Any = static(default=None)
    domain: Domain | None = static(default=None)

    def __post_init__(self):
        if (self.apply is None) == (self.encode is None) or (self.encode is None) != (self.decode is None):
            raise ValueError("an EmbeddingNetwork has either apply, or both encode and decode")

    def __repr__(self):
        size = sum(np.size(a) for a in jax.tree.leaves(self.params))
        return f"EmbeddingNetwork({size:,} parameters, {len(self.table)} tokens, {self.domain})"

    def init(self, x):
        return jnp.zeros_like(x)

    def check(self, levels, shape, cond):
        check(self.domain, levels, shape, cond)

    def __call__(self, x, level, cond, state, key):
        cond = told(self.domain, cond)
        if self.apply is not None:
            logits = self.apply(self.params, x, level.t, cond, state)
        else:
            logits = self.decode(self.params, self.encode(self.params, x, level.t, cond, state), level.t, cond)
        pred = self.read(logits, x, level)
        return pred, pred.x0

    def hidden(self, x, level, cond):
        """Hidden states, without self-conditioning."""
        return self.encode(self.params, x, level.t, told(self.domain, cond), jnp.zeros_like(x))

    def decoded(self, h, level, cond):
        return self.decode(self.params, h, level.t, told(self.domain, cond))

    def read(self, logits, x, level):
        p = jnp.exp(log_softmax(logits)).astype(x.dtype)
        return Prediction.split(x, jnp.matmul(p, self.table, precision="highest"), level)

    def tokens(self, x: Any) -> Any:
        """The tokens (L,) of clean embeddings."""
        return nearest(x, self.table)
