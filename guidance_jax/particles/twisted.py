"""Twisted diffusion sampler (Wu et al. 2023, arXiv 2306.17775, Algorithm 1): exact guidance, given enough particles.

    proposal   x_s ~ N(mu + Sigma (alpha_t / alpha_s) grad log p~(x_t), Sigma)
    weight     p~(x_s) N(x_s; mu, Sigma) / (p~(x_t) N(x_s; mu + ..., Sigma))

with p~(y | x_t) any guess of the likelihood, p(y | x0(x_t)) for example, that is right at the clean level.
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import function, normal, pytree, static
from guidance_jax.domain import check_pair
from guidance_jax.guidance.base import strength
from guidance_jax.guidance.classifier import log_prob
from guidance_jax.guidance.gradient import scalar, through
from guidance_jax.kernels.reverse import needs_variance


@pytree
class Twisted:
    """A move for `SMC`: samples p(x) p(y | x)^scale under the solver's own chain, without bias from the twist.

    One call of the model and one pull-back per particle and step. The last step has no noise and is not guided.

    Attributes:
      model: the unguided model.
      solver: one with a Gaussian kernel of positive variance.
      log_twist: `f(x0, level, cond) -> scalar`, asked at the clean estimate; or, with `noisy`, a classifier of x_t
        (`NoisyClassifier`, or `f(x_t, level, cond)`), which saves the pull-back.
      scale: a number or a function of the level; its value at the clean level decides the target, the others how well
        the particles are led there.

    Raises:
      ValueError: a solver without a Gaussian kernel; a twist that returns an array.
    """

    model: Any
    solver: Any
    log_twist: Any
    scale: Any = 1.0
    noisy: bool = static(default=False)

    def __post_init__(self):
        object.__setattr__(self, "log_twist", function(self.log_twist))

    def check(self, levels, shape, cond):
        needs_variance(self, self.solver)
        check_pair(self.model, self.log_twist, levels, shape, cond)

    def init(self, x):
        return self.model.init(x), jnp.zeros((), x.dtype)

    def twist(self, x, level, cond):
        scale = strength(self.scale, level, cond, off=0.0)
        return scale * scalar(log_prob(self.log_twist, x, level, cond), self.log_twist)

    def look(self, x, guide, t, cond, key):
        state, before = guide
        if self.noisy:
            pred, state = self.model(x, t, cond, state, key)
            value, gradient = jax.value_and_grad(self.twist)(x, t, cond)
        else:
            pred, pull, state = through(self.model, x, t, cond, state, key)
            value, gradient = jax.value_and_grad(self.twist)(pred.x0, t, cond)
            gradient = pull(gradient)
        return (pred, gradient, state, value), value - before

    def go(self, seen, t, s, cond, key):
        pred, gradient, state, value = seen
        mean, std = self.solver.kernel(pred, t, s)
        std, z = jnp.where(s.sigma > 0, std, 0), normal(key, mean)
        # in standard deviations; the gradient in x_s is alpha_t / alpha_s times that in x_t
        push = std * t.alpha / s.alpha * gradient
        gain = -jnp.sum(push * z + push**2 / 2)
        return mean + std * (push + z), (state, value), gain

    def finish(self, x, guide, level, cond, key):
        return self.twist(x, level, cond) - guide[1]
