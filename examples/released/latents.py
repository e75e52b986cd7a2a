"""Generators as models: the prior of their latents has an exact denoiser at every level, and measurements see through
them.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import converted, function, pytree
from guidance_jax.models.adapters import Unconditional
from guidance_jax.oracles.gaussian import GaussianMixture


@pytree
class Seen:
    """What an operator sees of what a generator makes of z.

    Attributes:
      operator, generator: functions of one sample.
    """

    operator: Any = converted(function)
    generator: Any = converted(function)

    def __call__(self, z: Any) -> Any:
        return self.operator(self.generator(z))


@partial(jax.jit, static_argnames="batch")
def decoded(generator: Any, z: Any, batch: int | None = None) -> Any:
    """What a generator makes of latents (n, d), `batch` at a time; None for one at a time."""
    return jax.lax.map(generator, z, batch_size=batch)


def prior(size: int) -> Unconditional:
    """The exact denoiser of z ~ N(0, I) in `size` dimensions, whatever the condition."""
    return Unconditional(GaussianMixture(jnp.zeros((1, size)), 1.0, jnp.ones(1)), None)
