"""DiffPIR, plug-and-play restoration (Zhu et al. 2023, arXiv 2305.08995, Algorithm 1): proximal steps.

    x0' = argmin |A x - y|^2 / (2 std^2) + weight |x - D|^2 / (2 r^2),   r = sigma / alpha

D is the clean estimate. The paper's solver is `FreshNoise(zeta)` with zeta from .1 to 1. Its code has images in [-1, 1]
but a std in the units of [0, 1], so that its lambda is 4 times `weight`. In the symbols used here, deepinv's gamma is
r^2 / (2 weight std^2).
"""

from typing import Any

from guidance_jax.core import pytree
from guidance_jax.guidance.gradient import scale_gradient
from guidance_jax.inverse.gradient import Inverse
from guidance_jax.models.adapters import part_of
from guidance_jax.operators.base import check_one_noise, residual_of


@pytree
class DiffPIR(Inverse):
    """Move the clean estimate to the best fit near it, by the operator's `solve`, without a gradient of the network.

    The guided prediction still satisfies alpha x0 + sigma eps = x; scale 0 is `inner`. For Gaussian data and weight 1,
    the samples have about the posterior's mean, but their spread is too small.

    Attributes:
      inner, operator, scale, observed: as in `Inverse`.
      std: the standard deviation of the measurement noise, one number above 0.
      weight: the weight of the distance to the estimate; lambda in the paper, there 1 to 25 by task.
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
