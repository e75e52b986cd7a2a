"""Pseudoinverse-guided diffusion (Song et al. 2023, ICLR, eq. 7): p(x0 | x_t) ~ N(D, r^2 I).

r^2 = prior sigma^2 / (prior alpha^2 + sigma^2),   exact for data N(m, prior I)
"""

from typing import Any

from guidance_jax.core import pytree, static
from guidance_jax.guidance.inverse import Inverse, conjugate_gradient


@pytree
class PiGDM(Inverse):
    """p(x0 | x_t) with the same variance for all entries. One call of the network and one pull-back. Keeps x.

    The paper's own weight r^2 in DDIM's step, instead of sigma^2 / alpha, is `scale=lambda level: ...` of the user's.

    Attributes:
      inner, operator, std, scale, observed: as in `Inverse`.
      prior: the variance of the data, 1 in the paper.
      steps: steps of conjugate gradients, none of which calls the network.
    """

    prior: Any = 1.0
    steps: int = static(default=10)

    def solve(self, residual, pull, level, like):
        r2 = self.prior * level.sigma**2 / (self.prior * level.alpha**2 + level.sigma**2)
        adjoint = self.operator.adjoint
        return conjugate_gradient(
            lambda v: self.variance * v + r2 * self.operator(adjoint(v, like)), residual, self.steps
        )
