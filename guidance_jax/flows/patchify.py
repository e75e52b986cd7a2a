"""Images as patches, and back."""

from typing import Any

import jax.numpy as jnp

from guidance_jax.core import Refused


def patchify(images: Any, size: int) -> Any:
    """Cut images (..., H, W, channels) into patches (..., T, size^2 channels), row by row.

    Within a patch, channels vary slowest.

    Raises:
      Refused: sides that `size` does not divide.
    """
    *batch, height, width, channels = jnp.shape(images)
    if height % size or width % size:
        raise Refused(f"patches of {size} do not divide images of {height} x {width}; crop or resize them")
    x = jnp.reshape(images, (*batch, height // size, size, width // size, size, channels))
    x = jnp.moveaxis(x, (-5, -3, -1, -4, -2), (-5, -4, -3, -2, -1))
    return x.reshape(*batch, (height // size) * (width // size), channels * size**2)


def unpatchify(patches: Any, size: int, shape: tuple[int, int, int]) -> Any:
    """Join patches (..., T, C) to images (..., H, W, channels) of `shape`: the inverse of `patchify`.

    Raises:
      Refused: patches of another number or size than `shape` has.
    """
    height, width, channels = shape
    *batch, number, dims = jnp.shape(patches)
    if (number, dims) != (height * width // size**2, channels * size**2) or height % size or width % size:
        raise Refused(f"patches ({number}, {dims}) of side {size} do not form an image of shape {tuple(shape)}")
    x = jnp.reshape(patches, (*batch, height // size, width // size, channels, size, size))
    x = jnp.moveaxis(x, (-5, -4, -3, -2, -1), (-5, -3, -1, -4, -2))
    return x.reshape(*batch, height, width, channels)
