"""Exact predictor guidance: score every single-token neighbour (Nisonoff et al. 2024, arXiv 2406.01572, eq. 2).

    R^y(x -> x') = R(x -> x') [p(y | x', t) / p(y | x, t)]^scale

With `TauLeap` these are the guided rates; with `Ancestral` this is D-CBG (Schiff et al. 2024, arXiv 2412.10193).
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import as_guide, converted, pytree, static
from guidance_jax.discrete.process import Diffusion
from guidance_jax.guidance.base import Contrast
from guidance_jax.guidance.gradient import scale_gradient
from guidance_jax.guidance.scales import not_negative, strength
from guidance_jax.models.domain import check_guide


class RateGuidance(Contrast):
    """Multiply the rates by exp(scale `log_ratios`); scale 0 is `inner`. Subclasses define the fields."""

    classifier: Any

    takes = Diffusion

    def check(self, levels, shape, cond):
        self.check_inner()
        not_negative(self)
        check_guide(self, self.inner, self.classifier, levels, shape, cond)
        self.inner.check(levels, shape, cond)

    def log_ratios(self, pred: Any, level: Any, cond: Any) -> Any:
        """Return log p(y | x with v at l) - log p(y | x), (L, V)."""
        raise NotImplementedError

    def __call__(self, x, level, cond, state, key):
        pred, state = self.inner(x, level, cond, state, key)
        ratios = scale_gradient(lambda: self.log_ratios(pred, level, cond), self.scale, level, cond, pred.log_p)
        return pred.tilt_by(ratios), state

    def parts(self, x, level, cond, state, key):
        weak, state = self.inner(x, level, cond, state, key)
        ratios = self.log_ratios(weak, level, cond)
        w = strength(self.scale, level, cond, off=0.0)
        return weak.tilt_by(w * ratios), weak.tilt_by(ratios), weak, state


@pytree
class PredictorGuidance(RateGuidance):
    """Guide by a classifier that scores all L V neighbours, in L V + 1 calls per step.

    With the exact p(y | x_t) and scale 1 the guided rates are those of the conditional process.

    Attributes:
      inner: a denoiser of tokens.
      classifier: a `Guide` of corrupted tokens, such as a `NoisyClassifier`, or f(x, level, label) -> log p.
      scale: a number, `Window`, `PerClass`, or a function of the level; not negative.
      microbatch: the number of neighbours scored at a time; None for all at once.

    Raises:
      Refused: a model of images or text; a negative scale; a classifier that does not fit the model.
    """

    inner: Any
    classifier: Any = converted(as_guide)
    scale: Any
    microbatch: int | None = static(default=256)

    def log_ratios(self, pred, level, cond):
        x, (length, size) = pred.x, pred.log_p.shape

        def asked(site):
            z = x.at[site // size].set((site % size).astype(x.dtype))
            return self.classifier.value(z, level, cond)

        here = self.classifier.value(x, level, cond)
        sites = jnp.arange(length * size)
        microbatch = length * size if self.microbatch is None else min(self.microbatch, length * size)
        return jax.lax.map(asked, sites, batch_size=microbatch).reshape(length, size) - here
