"""Moment matching posterior sampling (Rozet et al. 2024, arXiv 2405.13712, Algorithm 3): covariance by the Jacobian.

(std^2 I + A (sigma^2 / alpha) J A^T) v = y - A D      by conjugate gradients, J symmetric
"""

from guidance_jax.core import pytree, static
from guidance_jax.inverse.gradient import Inverse
from guidance_jax.operators.base import conjugate_gradient


@pytree
class MMPS(Inverse):
    """Guide by a linear measurement, with the covariance that the Jacobian gives: exact for Gaussian data.

    One call of the network and 1 + `steps` pull-backs per step. The guided prediction still satisfies alpha x0 + sigma
    eps = x.

    Attributes:
      inner, operator, std, scale, observed: as in `Inverse`.
      steps: the number of steps of conjugate gradients; exact after as many as there are measurements.
    """

    steps: int = static(default=5)

    def solve(self, residual, pull, level, like):
        return conjugate_gradient(
            lambda v: self.variance * v + level.sigma**2 / level.alpha * self.operator(pull(v)),
            residual,
            self.steps,
        )
