"""Editing a sample: SDEdit (Meng et al. 2022, arXiv 2108.01073), known as image to image, or parts of it (RePaint).

x_T = alpha_T y + sigma_T z,   then the steps of `inner`;   entries under the mask are y's at every level
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import GaussianDiffusion, KernelWrapper, Refused, concrete, normal, pytree
from guidance_jax.kernels.inpaint import check_overwritable, write_known


@pytree
class Edit(KernelWrapper):
    """Start sampling from a picture that is noised to the first level, in the place of noise.

    The fewer steps are left, the more of the picture stays. Pass the last of the levels: `levels.at(slice(20, None))`
    for 30 of 50 steps, a strength of 0.6. With a mask, the entries under it are those of the picture, noised to the
    level, after every step. `Inpaint` does the same with entries of the condition.

    Attributes:
      inner: a kernel of images or vectors, also of populations.
      picture: y, of the shape of one sample; for models of latents `pipeline.autoencoder.encode(pictures)[0]`.
      mask: 1 where y stays, else 0; it broadcasts against y. The default is 0 everywhere.

    Raises:
      Refused: a picture of another shape; numbers that are not finite; with a mask, a population that weighs whole
        paths.
    """

    inner: Any
    picture: Any
    mask: Any = 0.0

    takes = GaussianDiffusion

    def check(self, levels, shape, cond):
        super().check(levels, shape, cond)
        if jnp.shape(self.picture) != tuple(shape)[-jnp.ndim(self.picture) :]:
            raise Refused(f"Edit needs a picture with the shape of a sample, {shape}, got {jnp.shape(self.picture)}")
        if concrete((self.picture, self.mask)):
            if not np.isfinite(np.asarray(self.picture)).all() or not np.isfinite(np.asarray(self.mask)).all():
                raise Refused(
                    "the picture and the mask of Edit must be finite, got NaN or infinity; read the picture again"
                )
            if np.any(np.asarray(self.mask) > 0):
                check_overwritable(self)

    def start(self, key, levels, shape):
        picture = jnp.broadcast_to(jnp.asarray(self.picture), shape)
        return levels.at(0).noise(picture, normal(key, picture))

    def __call__(self, carry, t, s, cond, key):
        inner_key, noise_key = jax.random.split(key)
        carry = self.inner(carry, t, s, cond, inner_key)
        return carry._replace(x=write_known(carry.x, self.picture, self.mask, s, noise_key))
