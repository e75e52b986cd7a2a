"""DiffPIR, plug-and-play restoration (Zhu et al. 2023, arXiv 2305.08995, Algorithm 1): a proximal step on the estimate.

    x0' = argmin |A x - y|^2 / (2 std^2) + weight |x - D|^2 / (2 r^2),   r = sigma / alpha

The paper's step is `FreshNoise(zeta)`, zeta from .1 to 1. Its code has images in [-1, 1] and std of [0, 1], so that its
lambda is 4 times `weight`; deepinv's gamma is r^2 / (2 weight std^2) of ours.
"""

from typing import Any

from guidance_jax.core import pytree
from guidance_jax.guidance.gradient import scale_gradient
from guidance_jax.inverse.gradient import Inverse
from guidance_jax.models.adapters import part_of
from guidance_jax.operators.base import check_one_noise, residual_of


@pytree
class DiffPIR(Inverse):
    """The best fit near the estimate, by the operator's `solve`: no gradient of the network. Keeps x; scale 0 is inner.

    For Gaussian data and weight 1 its samples have about the posterior's mean and too small a spread.

    Attributes:
      inner, operator, std, scale, observed: as in `Inverse`; std is one number.
      weight: of the estimate, lambda in the paper, 1 to 25 there by task.
    """

    weight: Any = 1.0

    def check(self, levels, shape, cond):
        super().check(levels, shape, cond)
        check_one_noise(self, self.std)

    def __call__(self, x, level, cond, state, key):
        pred, state = self.inner(x, level, cond, state, key)
        residual = residual_of(self.operator, pred.x0, part_of(cond, self.observed))

        def correction():
            ridge = self.weight * self.variance * (level.alpha / level.sigma) ** 2
            return self.operator.solve(self.operator.adjoint(residual, x), ridge)

        return pred.towards(pred.x0 + scale_gradient(correction, self.scale, level, cond, x), level), state
