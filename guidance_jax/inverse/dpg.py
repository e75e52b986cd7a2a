"""Diffusion policy gradient, DPG (Tang et al. 2024, arXiv 2403.10585, Algorithm 1): no derivative of the likelihood.

grad log p(y | x_t) ~ J^T sum_k (w_k - 1/K) e_k / spread,   w = softmax_k log p(y | D + spread e_k),   e_k ~ N(0, I)
"""

import jax
import jax.numpy as jnp

from guidance_jax.core import normal, pytree
from guidance_jax.guidance.lgd import LGD


@pytree
class DPG(LGD):
    """`LGD` for black boxes: values of the likelihood alone say where to go. Needs many draws in many dimensions.

    `draws` likelihoods, one call of the denoiser and a pull-back. Keeps x; scale 0 is `inner`.

    Attributes:
      inner, log_likelihood, scale, through, draws, spread, microbatch: as in `LGD`; the likelihood need not be
        differentiable.
    """

    def ascent(self, x0, level, cond, key):
        spread = self.width(level, cond)

        def value(key):
            return self.log_likelihood.value(x0 + spread * normal(key, x0), level, cond)

        keys = jax.random.split(key, self.draws)
        values = (
            jax.vmap(value)(keys) if self.microbatch is None else jax.lax.map(value, keys, batch_size=self.microbatch)
        )
        share = jax.nn.softmax(values) - 1 / self.draws  # of mean 0: a part that all draws have in common says nothing
        draws = jax.vmap(lambda key: normal(key, x0))(keys)
        return jnp.tensordot(share, draws, 1, precision="highest") / spread
