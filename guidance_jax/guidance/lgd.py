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
    """Return the gradient in x0 of log mean_k exp(log_f(x0 + spread e_k)), with `draws` standard normal draws e_k.

    `microbatch` draws run at a time, None for all at once. Each draw is differentiated by itself and weighted by its
    likelihood, so the memory of the backward pass grows with `microbatch` alone.
    """

    def one(key):
        return jax.value_and_grad(log_f)(x0 + spread * normal(key, x0))

    keys = jax.random.split(key, draws)
    values, each = jax.vmap(one)(keys) if microbatch is None else jax.lax.map(one, keys, batch_size=microbatch)
    return jnp.tensordot(jax.nn.softmax(values), each, 1, precision="highest")


@pytree
class LGD(Reconstruction):
    """Guide by `Reconstruction` with a likelihood that is smoothed by Monte Carlo.

    Each step makes one call of the denoiser, one pull-back through it and `draws` gradients of the likelihood. The
    guided prediction still satisfies alpha x0 + sigma eps = x. The published code divides by the number of draws twice;
    this class follows the formula.

    Attributes:
      inner, log_likelihood, scale, through: as in `Reconstruction`.
      draws: the number of clean samples near the estimate; each costs one gradient of the likelihood.
      spread: the standard deviation of these samples, in units of x0: a number or a function of the level. None takes
        that of the paper, and 0 means no smoothing.
      microbatch: the number of draws that run at a time, None for all at once.
    """

    draws: int = static(default=8)
    spread: Any = None
    microbatch: int | None = static(default=None)

    def ascent(self, x0, level, cond, key):
        def log_f(x0):
            return self.log_likelihood.value(x0, level, cond)

        return smoothed_gradient(log_f, x0, self.width(level, cond), self.draws, key, self.microbatch)

    def width(self, level: Any, cond: Any) -> Any:
        """Return the standard deviation of the draws at `level`."""
        if self.spread is None:
            return level.sigma / jnp.sqrt(level.alpha**2 + level.sigma**2)
        return strength(self.spread, level, cond, off=0.0)
