"""Denoising diffusion null-space models (Wang et al. 2022, arXiv 2212.00490, Algorithms 1 and 2): DDNM and DDNM+.

Take a coefficient with singular value s. Its measurement is y / s, with standard deviation n = std / s, and D is its
clean estimate:

    x_s = alpha_s (D - l (D - y / s)) + noise
    sigma_s >= alpha_s n   l = 1,                                        noise sqrt(sigma_s^2 - alpha_s^2 n^2) z
    sigma_s < alpha_s n    l = sigma_s sqrt(1 - eta^2) / (alpha_s n),    noise sigma_s eta z
    s = 0 or std = 0       l = 1 where measured,                         noise sigma_s (eta z + sqrt(1 - eta^2) eps)
"""

import jax.numpy as jnp

from guidance_jax.core import pytree
from guidance_jax.inverse.spectral import SpectralKernel


@pytree
class DDNM(SpectralKernel):
    """Replace the measured part of the clean estimate by the measurement. With std = 0 the samples fit it exactly.

    One call of the model per step, no gradient. A std above 0 is DDNM+, which is `DDRM` with eta_b = 1; for its repeats
    use `Recur`. DDNM does not sample the posterior. Some code uses the weight min(1, sigma / std) for all singular
    values, which is right only for s = 1.

    Attributes:
      model: a denoiser of images or vectors, usually unconditional.
      operator: A, linear, with singular values.
      std: the standard deviation of the measurement noise; 0 for exact measurements.
      eta: the share of fresh noise, from 0 to 1; .85 in the paper. It counts where nothing is measured or the
        measurement is less accurate than the level, and everywhere if std = 0.
      observed: which part of `cond` is the measurement y: a function of `cond`, the name of an entry, or None for all.

    Raises:
      Refused: an operator without singular values; a measurement that does not fit it; a negative std; tokens.
    """

    def move(self, clean, eps, z, seen, noise, s):
        exact = s.alpha * seen + s.sigma * (self.eta * z + jnp.sqrt(1 - self.eta**2) * eps)
        return jnp.where(jnp.asarray(self.std) == 0, exact, self.restore(clean, z, seen, noise, s))
