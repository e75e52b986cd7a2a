"""FUDGE: future discriminators (Yang & Klein 2021, arXiv 2104.05218, eq. 2).

p(x_{i+1} | x_{1:i}, a)  is proportional to  p(x_{i+1} | x_{1:i}) p(a | x_{1:i+1})^scale
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from guidance_jax.core import add_logs, need, pytree, static
from guidance_jax.guidance.base import Contrast
from guidance_jax.guidance.gradient import scale_gradient
from guidance_jax.guidance.scales import not_negative, strength
from guidance_jax.text.prefix import PrefixGuide
from guidance_jax.text.sequence import LeftToRight


class Candidates(NamedTuple):
    """A prediction `model`, and its most probable tokens (top,) with their log-probabilities."""

    model: Any
    log_p: Any
    tokens: Any

    def guide(self, gains: Any) -> Any:
        """Return the prediction among the candidates alone: log p plus `gains` (top,), normalised."""
        guided = jnp.full_like(self.model.log_p, -jnp.inf).at[self.tokens].set(add_logs(self.log_p, gains))
        return dataclasses.replace(self.model, log_p=jax.nn.log_softmax(guided))


@pytree
class FUDGE(Contrast):
    """Weight each candidate for the next token by the predicted probability of an attribute.

    Scale 0 is the model among the `top` candidates; 1 is Bayes' rule. One call of the model and `top` + 1 calls of
    `future` per step.

    Attributes:
      inner: a language model.
      future: a `PrefixGuide`, such as `PrefixClassifier` or `MarkovModel.future`. Its state makes it read a prefix only
        once.
      scale: a number, `Window`, `PerClass`, or a function of the level; not negative.
      top: the number of candidates, the most probable tokens (the published choice is 200); None for all tokens.

    Raises:
      Refused: a model that is not autoregressive; a guide that does not read prefixes; a negative scale.
    """

    inner: Any
    future: Any
    scale: Any
    top: int | None = static(default=200)

    def init(self, x):
        return self.inner.init(x), self.future.init(x)

    takes = LeftToRight

    def check(self, levels, shape, cond):
        not_negative(self)
        need(self, self.future, PrefixGuide, "the future")
        super().check(levels, shape, cond)
        self.future.check(levels, shape, cond)

    def __call__(self, x, level, cond, state, key):
        pred, gains, state = self.candidates(x, level, cond, state, key)
        return pred.guide(scale_gradient(gains, self.scale, level, cond, pred.log_p)), state

    def parts(self, x, level, cond, state, key):
        pred, gains, state = self.candidates(x, level, cond, state, key)
        found = gains()
        return pred.guide(strength(self.scale, level, cond, off=0.0) * found), pred.guide(found), pred.model, state

    def candidates(self, x, level, cond, state, key):
        """Return (the candidates, a function that returns log p(a | prefix and candidate) of each, new state)."""
        own, before = state
        position = jnp.asarray(level.t).astype(int)
        _, before = self.future.read(x[position], position, before, cond)
        pred, own = self.inner(x, level, cond, own, key)
        top = len(pred.log_p) if self.top is None else min(self.top, len(pred.log_p))
        log_p, tokens = jax.lax.top_k(pred.log_p, top)

        def gains():
            return jax.vmap(lambda v: self.future.read(v.astype(x.dtype), position + 1, before, cond)[0])(tokens)

        return Candidates(pred, log_p, tokens), gains, (own, before)
