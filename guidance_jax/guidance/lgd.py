"""Loss-guided diffusion (Song et al. 2023, ICML, eq. 8): the likelihood averaged over clean samples near the estimate.

log p(y | x_t) ~ log mean_k p(y | x0(x_t) + spread e_k),   e_k ~ N(0, I),   spread = sigma / sqrt(alpha^2 + sigma^2)
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import normal, pytree, static
from guidance_jax.guidance.reconstruction import Reconstruction
from guidance_jax.guidance.scales import strength


def smoothed_gradient(log_f: Any, x0: Any, spread: Any, draws: int, key: Any, microbatch: int | None = None) -> Any:
    """grad of log mean_k exp(log_f(x0 + spread e_k)), `microbatch` draws at a time (None: all).

    Each draw is differentiated by itself and weighed by its likelihood, so memory does not grow with the draws.
    """

    def one(key):
        return jax.value_and_grad(log_f)(x0 + spread * normal(key, x0))

    keys = jax.random.split(key, draws)
    values, each = jax.vmap(one)(keys) if microbatch is None else jax.lax.map(one, keys, batch_size=microbatch)
    return jnp.tensordot(jax.nn.softmax(values), each, 1, precision="highest")


@pytree
class LGD(Reconstruction):
    """`Reconstruction` with Monte Carlo smoothing. Keeps x; `draws` likelihoods, one call of the denoiser.

    The published code divides by the number of draws twice.

    Attributes:
      inner, log_likelihood, scale, through: as in `Reconstruction`.
      draws: clean samples near the estimate, each one gradient of the likelihood.
      spread: their standard deviation: a number or a function of the level, None for the paper's; 0 for none.
      microbatch: draws at a time, None for all at once.
    """

    draws: int = static(default=8)
    spread: Any = None
    microbatch: int | None = static(default=None)

    def ascent(self, x0, level, cond, key):
        def log_f(x0):
            return self.log_likelihood.value(x0, level, cond)

        return smoothed_gradient(log_f, x0, self.width(level, cond), self.draws, key, self.microbatch)

    def width(self, level: Any, cond: Any) -> Any:
        """The standard deviation of the draws at `level`."""
        if self.spread is None:
            return level.sigma / jnp.sqrt(level.alpha**2 + level.sigma**2)
        return strength(self.spread, level, cond, off=0.0)
