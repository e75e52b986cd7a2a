"""Manifold-preserving guided diffusion (He et al. 2023, arXiv 2311.16424, Algorithm 2), without an autoencoder.

x0' = x0 + scale grad_x0 log p(y | x0),   eps kept: the point moves
"""

from typing import Any

from guidance_jax.core import as_guide, converted, pytree
from guidance_jax.guidance.gradient import EstimateGuidance, scale_gradient


@pytree
class MPGD(EstimateGuidance):
    """A gradient step on the clean estimate itself: nothing is differentiated through the network. Moves the point.

    Cheap (one call of the denoiser, one gradient of the likelihood); scale 0 is `inner`. The published code also
    rebuilds x_t from the moved estimate, which is the same point.

    Attributes:
      inner: the denoiser to guide.
      log_likelihood: a `Guide` of clean samples, or f(x0, level, cond) -> scalar, in nats.
      scale: the length of the step, in units of x0^2: a number, `Window`, or a function of the level.

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
