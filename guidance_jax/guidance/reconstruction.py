"""Guidance by a likelihood of the clean estimate, differentiated through the denoiser.

    x0' = x0 + scale (sigma^2 / alpha) grad_x log p(y | x0(x_t))

Source: Chung et al. 2022, arXiv 2209.14687, eq. 11, which approximates p(y | x_t) by p(y | x0(x_t)). It is also the
forward part of universal guidance (Bansal et al. 2023, 2302.07121, eq. 6). The kernel `DPS` is the same method in the
units of Chung et al., a step in sample space.
"""

from typing import Any

from guidance_jax.core import as_guide, converted, pytree, static
from guidance_jax.guidance.gradient import EstimateGuidance, GradientGuidance, through


@pytree
class Reconstruction(EstimateGuidance, GradientGuidance):
    """Guide by the gradient of a likelihood of the clean estimate, taken through the denoiser. scale 0 is `inner`.

    Each step makes one call of the inner denoiser and one pull-back through it. The guided prediction still satisfies
    alpha x0 + sigma eps = x. No classifier of noisy samples is needed: any likelihood or reward of clean samples will
    do, such as `CleanClassifier`, `GaussianLikelihood` or `Similarity`.

    The gradient step is stable only if the likelihood is wider than the uncertainty of the clean sample. With a
    `GaussianLikelihood` of small std, samples diverge, and `count_failed` counts them. `MMPS` has no such limit.

    Attributes:
      inner: the denoiser to guide.
      log_likelihood: a `Guide` of clean samples, or f(x0, level, cond) -> scalar, in nats.
      scale: a number, `Window`, or a function of the level.
      through: whether the gradient goes through the denoiser. If False, the denoiser's Jacobian is replaced by the
        identity and no pull-back is made; `scale=lambda level: level.alpha / (level.sigma * beta)` then is Q-guided
        flow (arXiv 2606.11087).

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
        """Return the gradient of the log-likelihood at the clean estimate `x0`."""
        return self.log_likelihood.score(x0, level, cond)
