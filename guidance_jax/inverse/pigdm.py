"""Pseudoinverse-guided diffusion (Song et al. 2023, ICLR, eq. 7): p(x0 | x_t) ~ N(D, r^2 I).

r^2 = prior sigma^2 / (prior alpha^2 + sigma^2),   exact for data N(m, prior I)
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from guidance_jax.core import Refused, concrete, pytree, static
from guidance_jax.inverse.gradient import Inverse
from guidance_jax.operators.base import conjugate_gradient


@pytree
class PiGDM(Inverse):
    """Guide by a linear measurement, with the same variance of p(x0 | x_t) for all entries.

    One call of the network and one pull-back per step. The guided prediction still satisfies alpha x0 + sigma eps = x.
    The paper weighs the gradient in DDIM's step by r^2 instead of sigma^2 / alpha; to do so, pass the ratio as
    `scale=lambda level: ...`.

    Attributes:
      inner, operator, std, scale, observed: as in `Inverse`.
      prior: the variance of the data, not its standard deviation: 1 in the paper.
      weights: how much each measurement counts, from 0 to 1, in the shape of the measurement; None is 1 for all. A
        weight w adds the variance r^2 (1 / w - 1) to the noise. With a mask and little noise v = w (y - A x0) / r^2,
        which are the soft masks of real-time chunking (Black et al. 2025, arXiv 2506.07339).
      steps: the number of steps of conjugate gradients; none of them calls the network.
    """

    prior: Any = 1.0
    steps: int = static(default=10)
    weights: Any = None

    def check(self, levels, shape, cond):
        super().check(levels, shape, cond)
        if self.weights is not None and concrete(self.weights):
            weights = np.asarray(self.weights)
            if not np.all((weights >= 0) & (weights <= 1)):
                raise Refused(f"weights of PiGDM must be from 0 to 1, got {weights.min():.4g} to {weights.max():.4g}")

    def solve(self, residual, pull, level, like):
        r2 = self.prior * level.sigma**2 / (self.prior * level.alpha**2 + level.sigma**2)

        def covariance(v):
            return self.variance * v + r2 * self.operator(self.operator.adjoint(v, like))

        if self.weights is None:
            return conjugate_gradient(covariance, residual, self.steps)
        # solve for u = v / sqrt(w), so that weights of 0 need no infinite noise
        root = jnp.sqrt(jnp.asarray(self.weights, residual.dtype))
        u = conjugate_gradient(
            lambda u: root * covariance(root * u) + r2 * (1 - root**2) * u, root * residual, self.steps
        )
        return root * u
