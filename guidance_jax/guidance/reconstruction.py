"""Guidance by a likelihood of the clean estimate, through the denoiser; universal guidance's forward part.

    x0' = x0 + scale (sigma^2 / alpha) grad_x log p(y | x0(x_t))

(Chung et al. 2022, arXiv 2209.14687, eq. 11, with p(y | x_t) ~ p(y | x0(x_t)); Bansal et al. 2023, 2302.07121, eq. 6.)
DPS in its own units, a step in sample space, is the kernel `DPS`.
"""

from typing import Any

from guidance_jax.core import as_guide, converted, pytree, static
from guidance_jax.guidance.gradient import EstimateGuidance, GradientGuidance, through


@pytree
class Reconstruction(EstimateGuidance, GradientGuidance):
    """Differentiates log_likelihood(x0(x_t), level, cond) through whatever is inside. Keeps x; scale 0 is `inner`.

    One call of the inner denoiser and one pull-back through it. No classifier of noisy samples is needed: any
    likelihood or reward of clean ones does, such as `CleanClassifier`, `GaussianLikelihood` or `Similarity`. It is a
    gradient step, stable only for likelihoods wider than what is unknown of the clean sample: a `GaussianLikelihood` of
    small std sends samples out of the data, which `count_failed` counts; `MMPS` has no such bound.

    Attributes:
      inner: the denoiser to guide.
      log_likelihood: a `Guide` of clean samples, or f(x0, level, cond) -> scalar, in nats.
      scale: a number, `Window`, or a function of the level.
      through: whether the gradient goes through the denoiser; if not, J is the identity and no pull-back is made. Then
        `scale=lambda level: level.alpha / (level.sigma * beta)` is Q-guided flow (arXiv 2606.11087).

    Raises:
      Refused: a likelihood that returns an array; a classifier of other classes or another shape than the model.
    """

    inner: Any
    log_likelihood: Any = converted(as_guide)
    scale: Any = 1.0
    through: bool = static(default=True, kw_only=True)

    def predict_and_gradient(self, x, level, cond, state, key):
        if not self.through:
            pred, state = self.inner(x, level, cond, state, key)
            return pred, lambda: self.ascent(pred.x0, level, cond, key), state
        pred, pull, state = through(self.inner, x, level, cond, state, key)
        return pred, lambda: pull(self.ascent(pred.x0, level, cond, key)), state

    def ascent(self, x0, level, cond, key):
        """The gradient at the clean estimate."""
        return self.log_likelihood.score(x0, level, cond)
