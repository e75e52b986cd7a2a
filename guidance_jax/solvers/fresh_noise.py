"""Fresh noise with a fixed share of the variance (Song et al. 2021, arXiv 2010.02502, eq. 12).

    x_s = alpha_s x0 + sigma_s (sqrt(1 - share) eps + sqrt(share) z),  std = sigma_s sqrt(share) in eq. 12

DiffPIR's step has the share zeta, DDNM's eta^2. The share 1 draws all noise anew, as consistency models and DAPS do.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from guidance_jax.core import Normal, Refused, Stochastic, concrete, known_zero, pytree


@pytree
class FreshNoise(Stochastic):
    """First-order solver with one network call per step. It keeps the marginals for any share, as DDIM does.

    Attributes:
      share: the share of the noise variance that is drawn anew, from 0 to 1; 0 is `DDIM()`.

    Raises:
      Refused: a share outside 0 to 1.
    """

    share: Any = 0.5

    def check(self, levels, shape, cond):
        super().check(levels, shape, cond)
        if concrete(self.share) and not np.all((np.asarray(self.share) >= 0) & (np.asarray(self.share) <= 1)):
            raise Refused(f"the share of fresh noise must be from 0 to 1, got {self.share}; write FreshNoise(0.5)")

    @property
    def deterministic(self):
        return known_zero(self.share)

    def transition(self, pred, t, s):
        """Return N(mean, std^2) of x_s. std is 0 on the step to the clean level."""
        mean = s.alpha * pred.x0 + s.sigma * jnp.sqrt(1 - self.share) * pred.eps
        return Normal(mean, s.sigma * jnp.sqrt(jnp.asarray(self.share, mean.dtype)))
