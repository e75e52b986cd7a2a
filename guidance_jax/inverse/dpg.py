"""Diffusion policy gradient, DPG (Tang et al. 2024, arXiv 2403.10585, Algorithm 1): no derivative of the likelihood.

    grad log p(y | x_t) ~ J^T sum_k (w_k - 1/K) e_k / spread,   w = softmax_k log p(y | D + spread e_k),   e_k ~ N(0, I)

D is the clean estimate, J its Jacobian in x_t, K the number of draws.
"""

import jax
import jax.numpy as jnp

from guidance_jax.core import normal, pytree
from guidance_jax.guidance.lgd import LGD


@pytree
class DPG(LGD):
    """Guide by the values of a black-box likelihood, without its gradient. In many dimensions it needs many draws.

    Each step costs `draws` values of the likelihood, one call of the denoiser and one pull-back. The guided prediction
    still satisfies alpha x0 + sigma eps = x; scale 0 is `inner`.

    Attributes:
      inner, scale, through, microbatch: as in `LGD`.
      log_likelihood: a `Guide` of clean samples, or f(x0, level, cond) -> scalar, in nats; it need not be
        differentiable.
      draws: the number of clean samples near the estimate; each costs one value of the likelihood.
      spread: their standard deviation, above 0: a number or a function of the level; None for sigma /
        sqrt(alpha^2 + sigma^2).
    """

    def ascent(self, x0, level, cond, key):
        spread = self.width(level, cond)

        def value(key):
            return self.log_likelihood.value(x0 + spread * normal(key, x0), level, cond)

        keys = jax.random.split(key, self.draws)
        values = (
            jax.vmap(value)(keys) if self.microbatch is None else jax.lax.map(value, keys, batch_size=self.microbatch)
        )
        share = jax.nn.softmax(values) - 1 / self.draws  # of sum 0: the mean of all draws has no effect
        draws = jax.vmap(lambda key: normal(key, x0))(keys)
        return jnp.tensordot(share, draws, 1, precision="highest") / spread
