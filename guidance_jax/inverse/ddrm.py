"""Denoising diffusion restoration models (Kawar et al. 2022, arXiv 2201.11793, eqs. 7 and 8), in sigma / alpha = r.

Take a coefficient with singular value s. Its measurement is y / s, with standard deviation n = std / s, and D is its
clean estimate. In units of x / alpha:

    r_s < n    D + sqrt(1 - eta^2) r_s (y / s - D) / n + eta r_s z
    r_s >= n   (1 - eta_b) D + eta_b y / s + sqrt(r_s^2 - eta_b^2 n^2) z
    s = 0      D + sqrt(1 - eta^2) r_s eps + eta r_s z
"""

from typing import Any

from guidance_jax.core import pytree
from guidance_jax.inverse.spectral import SpectralKernel


@pytree
class DDRM(SpectralKernel):
    """Fill in what was not measured and combine the rest with the measurement, at the noise of each level.

    x_s has the right distribution at every level if the clean estimate is the clean sample. The estimate is used in
    place of that sample, so DDRM does not sample the posterior. One call of the model per step, no gradient. Public
    implementations that leave out eta_b^2, or draw half the variance, fail the test of that distribution.

    Attributes:
      model: a denoiser of images or vectors, usually unconditional.
      operator: A, linear, with singular values.
      std: the standard deviation of the measurement noise; 0 for exact measurements.
      eta: the share of fresh noise, from 0 to 1, where nothing is measured or the measurement is less accurate than the
        level; .85 in the paper.
      observed: which part of `cond` is the measurement y: a function of `cond`, the name of an entry, or None for all.
      eta_b: how far to move from the estimate (0) to the measurement (1), where the measurement is more accurate than
        the level; 1 in the paper.

    Raises:
      Refused: an operator without singular values; a measurement that does not fit it; a negative std; tokens.
    """

    eta_b: Any = 1.0

    def move(self, clean, eps, z, seen, noise, s):
        return self.restore(clean, z, seen, noise, s, self.eta_b)
