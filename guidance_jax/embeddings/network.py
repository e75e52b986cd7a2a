"""Gaussian diffusion of token embeddings: turn logits over tokens into a clean estimate, and embeddings into tokens."""

from typing import Any

import jax.numpy as jnp

from guidance_jax.core import HiddenStates, Prediction, Refused, argmax_token, log_softmax, pytree, static
from guidance_jax.models.domain import Domain, network_condition, unless_unknown
from guidance_jax.models.network import Parametrized


def nearest(x: Any, table: Any) -> Any:
    """Return the tokens (L,) whose embeddings, rows of `table` (V, d), are nearest to x (L, d); `FAILED` at NaN."""
    distance = jnp.sum(table**2, -1) - 2 * jnp.matmul(x, table.T, precision="highest")
    return argmax_token(-distance)


@pytree
class EmbeddingNetwork(Parametrized, HiddenStates):
    """Score interpolation (CDCD, Dieleman et al. 2022, arXiv 2211.15089, eq. 4): x0 = sum_v p(v | x_t) e_v.

    It is a denoiser of embeddings (L, d), so every solver, CFG, classifier and particle method takes it. For
    self-conditioning `previous` is the clean estimate of the step before, zeros at first. One network call per step.

    Attributes:
      params: a pytree of arrays.
      table: (V, d), the embeddings.
      apply: apply(params, x, t, cond, previous) -> logits (L, V); None if `encode` and `decode` are given instead.
      encode: encode(params, x, t, cond, previous) -> h, hidden states that `NOS` can guide.
      decode: decode(params, h, t, cond) -> logits (L, V).
      domain: what the network was trained for; None checks nothing.

    Raises:
      Refused: both `apply` and `encode`, or neither; only one of `encode` and `decode`; hidden states of a network with
        `apply`; what `domain` does not allow.
    """

    functions = ("apply", "decode")

    params: Any
    table: Any
    apply: Any = static(default=None)
    encode: Any = static(default=None)
    decode: Any = static(default=None)
    domain: Domain | None = static(default=None)

    def __post_init__(self):
        if (self.apply is None) == (self.encode is None) or (self.encode is None) != (self.decode is None):
            raise Refused("an EmbeddingNetwork needs either apply, or both encode and decode")

    def init(self, x):
        return jnp.zeros_like(x)

    def __call__(self, x, level, cond, state, key):
        cond = network_condition(self.domain, cond)
        if self.apply is not None:
            logits = self.apply(self.params, x, level.t, cond, state)
        else:
            logits = self.decode(self.params, self.encode(self.params, x, level.t, cond, state), level.t, cond)
        pred = self.read(unless_unknown(self.domain, cond, logits), x, level)
        return pred, pred.x0

    def hidden(self, x, level, cond):
        """Return the hidden states h, computed without self-conditioning."""
        if self.encode is None:
            raise Refused("this EmbeddingNetwork has no hidden states; give it encode and decode instead of apply")
        return self.encode(self.params, x, level.t, network_condition(self.domain, cond), jnp.zeros_like(x))

    def logits_of(self, h, level, cond):
        logits = self.decode(self.params, h, level.t, network_condition(self.domain, cond))
        return unless_unknown(self.domain, cond, logits)

    def read(self, logits, x, level):
        p = jnp.exp(log_softmax(logits)).astype(x.dtype)
        return Prediction.split(x, jnp.matmul(p, self.table, precision="highest"), level)

    def tokens(self, x: Any) -> Any:
        """Return the tokens (L,) of clean embeddings (L, d)."""
        return nearest(x, self.table)
