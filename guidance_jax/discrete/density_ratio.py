"""Exact rates in one call: a network that knows p(y | x with v at l) of all neighbours (arXiv 2509.21912).

R^y(x -> x') = R(x -> x') [p(y | x') / p(y | x)]^scale,   p(y | x) = sum_v p(v | x) p(y | x with v at l)
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import Refused, converted, function, log_softmax, pytree, read_entry, static
from guidance_jax.discrete.predictor import RateGuidance
from guidance_jax.discrete.process import Absorbing
from guidance_jax.guidance.scales import not_negative
from guidance_jax.models.batching import call_network
from guidance_jax.models.domain import Domain
from guidance_jax.models.network import Parametrized


@pytree
class NeighbourClassifier(Parametrized):
    """log p(cond | x with v at l) for all v and l, from `apply(params, x, t) -> logits (L, V, classes)`.

    Attributes:
      params: a pytree of arrays.
      apply: the function; x (L,) masked tokens, t the clock of the schedule.
      domain: what it was trained for; not looked at.
      batched: as in `Network`.
    """

    params: Any
    apply: Callable = static()
    domain: Domain | None = static(default=None)
    batched: bool = static(default=False)

    def __call__(self, x, level, cond):
        log_p = log_softmax(call_network(self.apply, self.batched, self.params, x, level.t))
        return read_entry(jnp.moveaxis(log_p, -1, 0), cond)


@pytree
class DensityRatio(RateGuidance):
    """`PredictorGuidance` whose L V + 1 calls of a classifier are one of a network, on masks; scale 0 is `inner`.

    The network is trained by `DensityRatioMatching`; at its minimum, and at scale 1, the rates are those of the
    conditional process.

    Attributes:
      inner: a denoiser of masked tokens.
      classifier: a `NeighbourClassifier`, or f(x, level, cond) -> (L, V): log p(cond | x with v at l), x_l masked.
      scale: a number, `Window`, `PerClass`, or a function of the level; not negative.

    Raises:
      Refused: another space; a negative scale; log-probabilities of another shape.
    """

    inner: Any
    classifier: Any = converted(function)
    scale: Any

    takes = Absorbing

    def check(self, levels, shape, cond):
        self.check_inner()
        not_negative(self)
        self.inner.check(levels, shape, cond)

    def log_ratios(self, pred, level, cond):
        log_p = self.classifier(pred.x, level, cond)
        if log_p.shape != pred.log_p.shape:
            raise Refused(
                f"the neighbours of {pred.log_p.shape} tokens have a log-probability each, got shape {log_p.shape}"
            )
        return log_p - jax.nn.logsumexp(pred.log_p + log_p, -1, keepdims=True)
