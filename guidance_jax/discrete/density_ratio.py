"""Guidance by exact rates in one network call (arXiv 2509.21912).

    R^y(x -> x') = R(x -> x') [p(y | x') / p(y | x)]^scale,   p(y | x) = sum_v p(v | x) p(y | x with v at l)

One call of the network gives p(y | x with v at l) for every position l and token v.
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
    """Predict log p(cond | x with v at l) for all v and l by `apply(params, x, t) -> logits (L, V, classes)`.

    Attributes:
      params: a pytree of arrays.
      apply: the function; x (L,) masked tokens, t the clock of the schedule.
      domain: what the network was trained for; it is not checked here.
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
    """Guide masks as `PredictorGuidance` does, with one network call instead of L V + 1 classifier calls.

    Scale 0 is `inner`. `DensityRatioMatching` trains the network. At the minimum of that loss, and at scale 1, the
    rates are those of the conditional process.

    Attributes:
      inner: a denoiser of masked tokens.
      classifier: a `NeighbourClassifier`, or f(x, level, cond) -> (L, V): log p(cond | x with v at l) at masks x_l.
      scale: a number, `Window`, `PerClass`, or a function of the level; not negative.

    Raises:
      Refused: a model of another space; a negative scale; log-probabilities of another shape.
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
                f"the neighbours of {pred.log_p.shape} tokens must have a log-probability each, got shape {log_p.shape}"
            )
        return log_p - jax.nn.logsumexp(pred.log_p + log_p, -1, keepdims=True)
