"""Exact predictor guidance: every single-token neighbour is asked (Nisonoff et al. 2024, arXiv 2406.01572, eq. 2).

    R^y(x -> x') = R(x -> x') [p(y | x', t) / p(y | x, t)]^scale

With `TauLeap` these are the guided rates; with `Ancestral`, D-CBG (Schiff et al. 2024, arXiv 2412.10193).
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import function, pytree, static, within
from guidance_jax.domain import check_pair
from guidance_jax.guidance.base import Guidance, not_negative
from guidance_jax.guidance.classifier import log_prob
from guidance_jax.guidance.gradient import scalar, scaled


class RateGuidance(Guidance):
    """Rates times exp(scale `log_ratios`); scale 0 is `inner`. Its subclasses have the fields."""

    classifier: Any
    scale: Any

    def __post_init__(self):
        object.__setattr__(self, "classifier", function(self.classifier))

    def check(self, levels, shape, cond):
        if within(self.inner, "process") is None:
            name = type(self).__name__
            raise ValueError(f"{name} guides models of tokens; for images write Classifier(model, classifier, scale)")
        not_negative(self)
        check_pair(self.inner, self.classifier, levels, shape, cond)

    def log_ratios(self, pred: Any, level: Any, cond: Any) -> Any:
        """log p(y | x with v at l) - log p(y | x), (L, V)."""
        raise NotImplementedError

    def __call__(self, x, level, cond, state, key):
        pred, state = self.inner(x, level, cond, state, key)
        ratios = scaled(lambda: self.log_ratios(pred, level, cond), self.scale, level, cond, pred.log_p)
        return pred.tilted(ratios), state


@pytree
class PredictorGuidance(RateGuidance):
    """All L V neighbours through the classifier, `chunk` at a time: L V + 1 of its calls a step, memory of `chunk`.

    With the exact p(y | x_t) and scale 1 the guided rates are those of the conditional process.

    Attributes:
      inner: a denoiser of tokens.
      classifier: `log_prob(x, level, label)`, such as a `NoisyClassifier` of tokens, or a function of those arguments.
      scale: a number, `Window`, `PerClass`, or a function of the level.
      chunk: neighbours at a time; None for all at once.

    Raises:
      ValueError: a model of images; a classifier that does not fit the model.
    """

    inner: Any
    classifier: Any
    scale: Any
    chunk: int | None = static(default=256)

    def log_ratios(self, pred, level, cond):
        x, (length, size) = pred.x, pred.log_p.shape

        def asked(site):
            z = x.at[site // size].set((site % size).astype(x.dtype))
            return scalar(log_prob(self.classifier, z, level, cond), self.classifier)

        here = scalar(log_prob(self.classifier, x, level, cond), self.classifier)
        sites = jnp.arange(length * size)
        chunk = length * size if self.chunk is None else min(self.chunk, length * size)
        return jax.lax.map(asked, sites, batch_size=chunk).reshape(length, size) - here
