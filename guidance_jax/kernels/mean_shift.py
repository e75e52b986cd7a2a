"""Classifier guidance, mean form (Dhariwal & Nichol 2021, arXiv 2105.05233, Algorithm 1).

    x_s ~ N(mu + scale Sigma grad_x log p(y | x_t), Sigma)

with mu and Sigma of the solver's Gaussian kernel and the gradient at x_t, as in their code (the derivation has it at
mu). It is not the score form (Algorithm 2) with another solver: per step they differ by the factor
beta_t / (sqrt(alpha_t) Sigma), which grows in the last steps.
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import function, normal, pytree
from guidance_jax.domain import check_pair
from guidance_jax.guidance.classifier import gradient
from guidance_jax.kernels.reverse import Carry, needs_variance


@pytree
class MeanShift:
    """Sample from the solver's Gaussian with its mean moved by scale Sigma grad log p(y | x_t).

    `classifier` and `scale` as in `Classifier`. The clean estimate stays unguided. No noise is added on the step to
    the clean level, but the mean is shifted there too where the solver has a variance (`DDPM.like_openai`).

    Raises:
      ValueError: a solver without a Gaussian kernel, or of variance 0, which would ignore the guidance; mismatched
        model and classifier.
    """

    model: Any
    solver: Any
    classifier: Any
    scale: Any

    def __post_init__(self):
        object.__setattr__(self, "classifier", function(self.classifier))

    def init(self, x):
        return Carry(x, self.model.init(x), ())

    def check(self, levels, shape, cond):
        needs_variance(self, self.solver)
        check_pair(self.model, self.classifier, levels, shape, cond)

    def __call__(self, carry, t, s, cond, key):
        first, second = jax.random.split(key)
        pred, guide = self.model(carry.x, t, cond, carry.guide, first)
        mean, std = self.solver.kernel(pred, t, s)
        mean = mean + std**2 * gradient(self.classifier, carry.x, t, cond, self.scale)
        noise = jnp.where(s.sigma > 0, std, 0) * normal(second, mean)
        return Carry(mean + noise, guide, ())
