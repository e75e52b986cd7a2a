"""Fresh noise at a fixed share of the level's own (Song et al. 2021, arXiv 2010.02502, eq. 12, with std = sqrt(share)).

    x_s = alpha_s x0 + sigma_s (sqrt(1 - share) eps + sqrt(share) z)

DiffPIR's step has the share zeta, DDNM's eta^2; 1 forgets the noise, as consistency models and DAPS do.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from guidance_jax.core import Normal, Refused, Stochastic, concrete, known_zero, pytree


@pytree
class FreshNoise(Stochastic):
    """First order, no call of its own. Keeps the marginals for any share, as DDIM does; 0 is `DDIM()`.

    Attributes:
      share: of the noise's variance that is drawn afresh, from 0 to 1.

    Raises:
      Refused: another share.
    """

    share: Any = 0.5

    def check(self, levels, shape, cond):
        super().check(levels, shape, cond)
        if concrete(self.share) and not np.all((np.asarray(self.share) >= 0) & (np.asarray(self.share) <= 1)):
            raise Refused(f"the share of fresh noise is from 0 to 1, got {self.share}; write FreshNoise(0.5)")

    @property
    def deterministic(self):
        return known_zero(self.share)

    def transition(self, pred, t, s):
        """N(mean, std^2) of x_s; std 0 on the step to the clean level."""
        mean = s.alpha * pred.x0 + s.sigma * jnp.sqrt(1 - self.share) * pred.eps
        return Normal(mean, s.sigma * jnp.sqrt(jnp.asarray(self.share, mean.dtype)))
