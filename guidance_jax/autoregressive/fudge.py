"""FUDGE: future discriminators (Yang & Klein 2021, arXiv 2104.05218, eq. 2).

p(x_{i+1} | x_{1:i}, a)  is proportional to  p(x_{i+1} | x_{1:i}) p(a | x_{1:i+1})^scale
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import check, pytree, static
from guidance_jax.guidance.base import Guidance, not_negative
from guidance_jax.guidance.gradient import scaled


@pytree
class FUDGE(Guidance):
    """Each candidate for the next token is appended and the attribute predicted. Scale 0 is the model; 1 is Bayes'
    rule.

    `future` looks at prefixes and is stateful, so that a prefix is read once:

        future.init(x) -> state
        future(token, position, state, cond) -> (log p(a | prefix), state)

    as `PrefixClassifier` and `MarkovModel.future` do. top + 1 of its calls a step. Its log-probabilities come from
    logits by softplus or log-softmax, which cannot overflow.

    Attributes:
      top: how many of the most probable tokens are candidates (the published choice is 200); None for all.

    Raises:
      ValueError: a model that is not autoregressive.
    """

    inner: Any
    future: Any
    scale: Any
    top: int | None = static(default=200)

    def init(self, x):
        return self.inner.init(x), self.future.init(x)

    def check(self, levels, shape, cond):
        not_negative(self)
        check(self.inner, levels, shape, cond)
        check(self.future, levels, shape, cond)

    def __call__(self, x, level, cond, state, key):
        own, before = state
        position = jnp.asarray(level.t).astype(int)
        _, before = self.future(x[position], position, before, cond)
        pred, own = self.inner(x, level, cond, own, key)
        if pred.log_p.ndim != 1:
            raise ValueError("FUDGE guides language models; for diffusion of tokens use PredictorGuidance")
        top = len(pred.log_p) if self.top is None else min(self.top, len(pred.log_p))
        log_p, candidates = jax.lax.top_k(pred.log_p, top)

        def gains():
            return jax.vmap(lambda v: self.future(v.astype(x.dtype), position + 1, before, cond)[0])(candidates)

        tilted = log_p + scaled(gains, self.scale, level, cond, log_p)
        guided = jnp.full_like(pred.log_p, -jnp.inf).at[candidates].set(tilted)
        return dataclasses.replace(pred, log_p=jax.nn.log_softmax(guided)), (own, before)
