"""Clipping of the clean estimate: static (as in DDPM) and dynamic (Saharia et al. 2022, arXiv 2205.11487, 2.3)."""

from typing import Any

import jax.numpy as jnp

from guidance_jax.core import GaussianDiffusion, pytree
from guidance_jax.guidance.base import Guidance


@pytree
class Clip(Guidance):
    """Clip the clean estimate x0 to [-radius, radius]. The prediction still satisfies alpha x0 + sigma eps = x.

    The order of nesting is the order of work. `Classifier(Clip(model), ...)` clips before guidance, as OpenAI's sampler
    does; `Clip(Classifier(model, ...))` clips after guidance.

    Attributes:
      inner: any denoiser of images or vectors.
      radius: the largest absolute value of an entry, in units of x0.
    """

    inner: Any
    radius: Any = 1.0

    takes = GaussianDiffusion

    def __call__(self, x, level, cond, state, key):
        pred, state = self.inner(x, level, cond, state, key)
        return pred.towards(jnp.clip(pred.x0, -self.radius, self.radius), level), state


@pytree
class DynamicClip(Guidance):
    """Apply Imagen's dynamic thresholding: clip x0 to a percentile of |x0| if that exceeds `radius`, then rescale.

        q = max(radius, percentile(|x0|)),   x0' = radius clip(x0, -q, q) / q

    The prediction still satisfies alpha x0 + sigma eps = x.

    Attributes:
      inner: any denoiser of images or vectors.
      percentile: the percentile of |x0| over the entries of one sample, from 0 to 100.
      radius: the range of the data, in units of x0; infinite for no clipping.
    """

    inner: Any
    percentile: Any = 99.5
    radius: Any = 1.0

    takes = GaussianDiffusion

    def __call__(self, x, level, cond, state, key):
        pred, state = self.inner(x, level, cond, state, key)
        q = jnp.percentile(jnp.abs(pred.x0), self.percentile)
        beyond = q > self.radius  # an infinite radius means no clipping
        radius, q = jnp.where(beyond, self.radius, 1.0), jnp.where(beyond, q, 1.0)
        bound = jnp.where(beyond, q, self.radius)
        return pred.towards(radius * jnp.clip(pred.x0, -bound, bound) / q, level), state
