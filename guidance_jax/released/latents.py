"""The prior of a generator's latents: diffusion over them has an exact denoiser at every level."""

import jax.numpy as jnp

from guidance_jax.models.adapters import Unconditional
from guidance_jax.oracles.gaussian import GaussianMixture


def prior(size: int) -> Unconditional:
    """The exact denoiser of z ~ N(0, I) in `size` dimensions, whatever the condition."""
    return Unconditional(GaussianMixture(jnp.zeros((1, size)), 1.0, jnp.ones(1)), None)
