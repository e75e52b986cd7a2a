"""DDIM (Song et al. 2021, arXiv 2010.02502, eq. 12 and 16), for any alpha and sigma.

std = eta sigma_s sqrt(1 - (alpha_t sigma_s / (alpha_s sigma_t))^2),
x_s = alpha_s x0 + sqrt(sigma_s^2 - std^2) eps + std z
"""

from typing import Any

import jax.numpy as jnp

from guidance_jax.core import Level, normal, pytree


def fresh_share(t: Level, s: Level) -> Any:
    """1 - rho^2 with rho = alpha_t sigma_s / (alpha_s sigma_t): how much of the noise at t is not in that at s."""
    return jnp.maximum(1 - (t.alpha * s.sigma / (s.alpha * t.sigma)) ** 2, 0)


def posterior_variance(t: Level, s: Level) -> Any:
    """beta-tilde, the variance of q(x_s | x_t, x_0): sigma_s^2 (1 - (alpha_t sigma_s / (alpha_s sigma_t))^2)."""
    return s.sigma**2 * fresh_share(t, s)


@pytree
class DDIM:
    """eta 0: the ODE by Euler's method in any schedule, rectified flow included; eta 1: DDPM with the small variance.

    First order. eta 1 is also k-diffusion's Euler ancestral, step for step, and so is eta in between.
    """

    eta: Any = 0.0

    def init(self, x):
        return ()

    def kernel(self, pred, t, s):
        """(mean, std) of x_s; std 0 on the step to the clean level."""
        variance = self.eta**2 * posterior_variance(t, s)
        mean = s.alpha * pred.x0 + jnp.sqrt(jnp.maximum(s.sigma**2 - variance, 0)) * pred.eps
        return mean, jnp.sqrt(variance)

    def step(self, pred, t, s, evaluate, state, key):
        mean, std = self.kernel(pred, t, s)
        return mean + std * normal(key, mean), state
