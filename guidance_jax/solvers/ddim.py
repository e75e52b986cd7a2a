"""DDIM (Song et al. 2021, arXiv 2010.02502, eq. 12 and 16), for any alpha and sigma.

std = eta sigma_s sqrt(1 - (alpha_t sigma_s / (alpha_s sigma_t))^2),
x_s = alpha_s x0 + sqrt(sigma_s^2 - std^2) eps + std z
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from guidance_jax.core import Normal, Refused, Stochastic, concrete, known_zero, posterior_variance, pytree


@pytree
class DDIM(Stochastic):
    """Solve the ODE by Euler's method on any schedule (eta 0), or sample as DDPM with the small variance (eta 1).

    First order, one network call per step. Rectified flow is included. For any eta it is k-diffusion's Euler ancestral,
    step for step.

    Attributes:
      eta: the share of fresh noise, from 0 to 1.

    Raises:
      Refused: an eta outside 0 to 1.
    """

    eta: Any = 0.0

    def check(self, levels, shape, cond):
        super().check(levels, shape, cond)
        if concrete(self.eta) and not np.all((np.asarray(self.eta) >= 0) & (np.asarray(self.eta) <= 1)):
            raise Refused(
                f"eta, the share of fresh noise, must be from 0 to 1, got {self.eta}; write DDIM(1.0) for the largest"
            )

    @property
    def deterministic(self):
        return known_zero(self.eta)

    def transition(self, pred, t, s):
        """Return N(mean, std^2) of x_s. std is 0 on the step to the clean level."""
        variance = self.eta**2 * posterior_variance(t, s)
        mean = s.alpha * pred.x0 + jnp.sqrt(jnp.maximum(s.sigma**2 - variance, 0)) * pred.eps
        return Normal(mean, jnp.sqrt(variance))
