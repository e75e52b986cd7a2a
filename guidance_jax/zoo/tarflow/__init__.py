"""TarFlow: autoregressive flows of images, their network and the reader of the authors' checkpoints."""

from guidance_jax.zoo.tarflow.network import TarFlow, bits_per_number, decode_images, encode_images, flow
from guidance_jax.zoo.tarflow.reader import tarflow

__all__ = ["TarFlow", "bits_per_number", "decode_images", "encode_images", "flow", "tarflow"]
