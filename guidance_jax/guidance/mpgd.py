"""Manifold-preserving guided diffusion (He et al. 2023, arXiv 2311.16424, Algorithm 2), without an autoencoder.

x0' = x0 + scale grad_x0 log p(y | x0),   eps kept: the point moves
"""

from typing import Any

import jax

from guidance_jax.core import check, function, pytree
from guidance_jax.guidance.base import Guidance, active, strength, when
from guidance_jax.guidance.gradient import scalar
from guidance_jax.network import same_process


@pytree
class MPGD(Guidance):
    """A gradient step on the clean estimate itself: nothing is differentiated through the network. Moves the point.

    Cheap (one call of the denoiser, one gradient of the likelihood); scale 0 is `inner`. The published code also
    rebuilds x_t from the moved estimate, which is the same point.

    Raises:
      ValueError: a likelihood that returns an array; a classifier of other classes or another shape than the model.
    """

    inner: Any
    log_likelihood: Any
    scale: Any = 1.0

    def __post_init__(self):
        object.__setattr__(self, "log_likelihood", function(self.log_likelihood))

    def check(self, levels, shape, cond):
        same_process(self.inner, self.log_likelihood)
        check(self.log_likelihood, levels, shape, cond)
        check(self.inner, levels, shape, cond)

    def __call__(self, x, level, cond, state, key):
        pred, state = self.inner(x, level, cond, state, key)

        def log_f(x0):
            return scalar(self.log_likelihood(x0, level, cond), self.log_likelihood)

        w = strength(self.scale, level, cond, off=0.0)
        step = when(active(self.scale, level), lambda: w * jax.grad(log_f)(pred.x0), lambda: 0 * pred.x0)
        return pred.moved(step), state
