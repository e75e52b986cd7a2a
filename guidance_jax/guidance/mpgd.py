"""Manifold-preserving guided diffusion (He et al. 2023, arXiv 2311.16424, Algorithm 2), without an autoencoder.

x0' = x0 + scale grad_x0 log p(y | x0),   eps unchanged
"""

from typing import Any

from guidance_jax.core import as_guide, converted, pytree
from guidance_jax.guidance.gradient import EstimateGuidance, scale_gradient


@pytree
class MPGD(EstimateGuidance):
    """Make a gradient step on the clean estimate itself, without differentiating through the network.

    scale 0 is `inner`. eps stays, so alpha x0 + sigma eps is no longer x. Each step makes one call of the denoiser and
    one gradient of the likelihood. The published code also rebuilds x_t from the moved estimate: the same point.

    Attributes:
      inner: the denoiser to guide.
      log_likelihood: a `Guide` of clean samples, or f(x0, level, cond) -> scalar, in nats.
      scale: the step size, in units of x0^2: a number, `Window`, or a function of the level.

    Raises:
      Refused: a likelihood that returns an array; a classifier of other classes or another shape than the model.
    """

    inner: Any
    log_likelihood: Any = converted(as_guide)
    scale: Any = 1.0

    def __call__(self, x, level, cond, state, key):
        pred, state = self.inner(x, level, cond, state, key)
        step = scale_gradient(lambda: self.log_likelihood.score(pred.x0, level, cond), self.scale, level, cond, pred.x0)
        return pred.shift(step), state
