"""Readers of real data. Images are float32 in [-1, 1], (n, height, width, channels); labels are integers."""

from guidance_jax.datasets.digits import digits
from guidance_jax.datasets.idx import idx
from guidance_jax.datasets.image_folder import image_folder
from guidance_jax.datasets.images import Images
from guidance_jax.datasets.sequences import Sequences, encode, text

__all__ = [
    "Images",
    "Sequences",
    "digits",
    "encode",
    "idx",
    "image_folder",
    "text",
]
