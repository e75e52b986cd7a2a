"""Classifier guidance, score form (Dhariwal & Nichol 2021, arXiv 2105.05233, Algorithm 2).

    eps' = eps - scale sigma grad_x log p(y | x_t),   x0' = x0 + scale (sigma^2 / alpha) grad_x log p(y | x_t)

The gradient of the log-probability is multiplied by sigma_t; descriptions without this factor guide too strongly by
1 / sigma_t. Any solver may follow. Algorithm 1, the mean form for DDPM, is the kernel `MeanShift`.
"""

from typing import Any

from guidance_jax.core import as_guide, converted, pytree
from guidance_jax.guidance.base import Contrast
from guidance_jax.guidance.gradient import GradientGuidance, check_gradient
from guidance_jax.guidance.scales import strength
from guidance_jax.models.domain import check_guide


@pytree
class Classifier(GradientGuidance, Contrast):
    """Guide by the gradient of a classifier of noisy samples: x0 + scale (sigma^2 / alpha) grad log p(y | x_t).

    scale 0 is `inner`; 1, on an unconditional model, is p(x | y). Each step makes one call of the inner denoiser and
    one gradient of the classifier, which does not go through the denoiser. The gradient is skipped where the scale is 0
    or outside its `Window`. The guided prediction still satisfies alpha x0 + sigma eps = x.

    Attributes:
      inner: the denoiser to guide.
      classifier: a `Guide` of noisy samples, such as `NoisyClassifier`, or a function f(x, level, label) -> log p.
        Define a function once: every new lambda is compiled again.
      scale: a number, `Window`, `PerClass`, or a function of the level.

    Raises:
      Refused: a classifier of another schedule, shape or number of classes than the model; labels that the classifier
        does not have; a model of tokens, for which there are `PredictorGuidance` and `TAG`.
    """

    inner: Any
    classifier: Any = converted(as_guide)
    scale: Any

    def check(self, levels, shape, cond):
        self.check_inner()
        check_guide(self, self.inner, self.classifier, levels, shape, cond, noisy=True)
        self.inner.check(levels, shape, cond)
        check_gradient(self, levels, self.scale)

    def predict_and_gradient(self, x, level, cond, state, key):
        pred, state = self.inner(x, level, cond, state, key)
        return pred, lambda: self.classifier.score(x, level, cond), state

    def parts(self, x, level, cond, state, key):
        weak, gradient, state = self.predict_and_gradient(x, level, cond, state, key)
        strong = weak.towards(weak.x0 + level.sigma**2 / level.alpha * gradient(), level)
        return strong.contrast(weak, strength(self.scale, level, cond, off=0.0), level), strong, weak, state
