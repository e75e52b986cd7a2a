"""Inception features of images, from the weight files that FID packages use."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.checkpoints.tensors import match_params
from guidance_jax.core import Refused, pytree, static
from guidance_jax.metrics.inception_network import Inception, InceptionFeatures
from guidance_jax.zoo.convert import read_state

NAMES = ("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth")


def digest(path: str | Path) -> str:
    """Return the first 16 hexadecimal digits of a file's SHA-256."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


@jax.jit
def _features(params: Any, images: Any) -> InceptionFeatures:
    with jax.default_matmul_precision("highest"):
        return jax.vmap(Inception().apply, (None, 0))(params, images)


@pytree
class InceptionExtractor:
    """Compute `InceptionFeatures` (n, ...) of uint8 images (n, H, W, 3), in float32 at the highest matmul precision.

    Attributes:
      params: the parameters of the Inception network.
      name: the network and the file of its weights, for protocols.
    """

    params: Any
    name: str = static(default="Inception-v3 (2015-12-05)")

    def batches(self, images: np.ndarray, batch: int = 50) -> Iterator[InceptionFeatures]:
        """Yield the features of `batch` images at a time.

        Raises:
          Refused: images that are not uint8 with three channels, or no images.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise Refused(
                f"Inception takes uint8 images (n, height, width, 3), got {images.dtype} {images.shape}; "
                "repeat the channel of grey images with np.repeat(images, 3, -1)"
            )
        if len(images) == 0:
            raise Refused("Inception takes at least 1 image, got 0; draw some")
        batch = min(batch, len(images))
        for i in range(0, len(images), batch):
            part = images[i : i + batch]
            found = _features(self.params, jnp.asarray(np.resize(part, (batch, *part.shape[1:]))))
            yield InceptionFeatures(*(np.asarray(a)[: len(part)] for a in found))

    def __call__(self, images: np.ndarray, batch: int = 50) -> InceptionFeatures:
        parts = list(self.batches(images, batch))
        return InceptionFeatures(*(np.concatenate(a) for a in zip(*parts, strict=True)))


def load_inception(path: str | Path | None = None) -> InceptionExtractor:
    """Load the Inception weights of torch-fidelity or pytorch-fid, `.pth` or `.safetensors`, into an extractor.

    Args:
      path: the file; None looks for the packages' file names in $GUIDANCE_JAX_WEIGHTS or ~/.cache/guidance_jax.

    Raises:
      Refused: no such file, or the weights of another network.
    """
    folder = Path(os.environ.get("GUIDANCE_JAX_WEIGHTS", Path.home() / ".cache" / "guidance_jax"))
    candidates = [Path(path)] if path is not None else [folder / name for name in NAMES]
    file = next((p for p in candidates if p.is_file()), None)
    if file is None:
        raise Refused(
            f"no Inception weights at {candidates[0]}: FID, sFID, IS and KID need torch-fidelity's {NAMES[0]} there; "
            "without it, metrics.report.evaluate measures in the features of a judge that you trained (not an FID)"
        )
    state = read_state(file)
    state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    params = match_params(state, Inception(), jnp.zeros((32, 32, 3)))
    return InceptionExtractor(jax.tree.map(jnp.asarray, params), f"Inception-v3 (2015-12-05), weights {digest(file)}")
