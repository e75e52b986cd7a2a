"""Tweedie moment projected diffusion (Boys et al. 2023, arXiv 2310.06721, eq. 10): the row sums of A C A^T.

v = (y - A D) / (std^2 + A (sigma^2 / alpha) J^T A^T 1)
"""

import jax.numpy as jnp

from guidance_jax.core import pytree
from guidance_jax.inverse.gradient import Inverse


@pytree
class TMPD(Inverse):
    """Guide by a linear measurement, with the row sums of A C A^T in place of that matrix.

    One call of the network and two pull-backs per step. The guided prediction still satisfies alpha x0 + sigma eps = x.
    TMPD is exact where A C A^T is diagonal. Negative row sums, which a network can give, count as 0.

    Attributes:
      inner, operator, std, scale, observed: as in `Inverse`.
    """

    def solve(self, residual, pull, level, like):
        sums = self.operator(level.sigma**2 / level.alpha * pull(jnp.ones_like(residual)))
        return residual / (self.variance + jnp.maximum(sums, 0))
