"""Keras' `.h5` files as NumPy arrays, without Keras: layer/weight -> array; nothing in them is run."""

import io
from typing import Any

import numpy as np

from guidance_jax.core import Refused

NAMES = {"gamma": "scale", "beta": "bias", "moving_mean": "mean", "moving_variance": "var"}


def read_keras(content: bytes) -> dict[str, np.ndarray]:
    """The weights of a model saved by Keras 2: layer/weight -> array, weights by the names of this package's layers.

    Raises:
      Refused: no such file, or h5py is not installed.
    """
    try:
        import h5py
    except ModuleNotFoundError:
        raise Refused('reading .h5 files needs h5py: pip install "guidance_jax[pretrained]"') from None
    found: dict[str, np.ndarray] = {}

    def keep(path: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            layer, *_, name = path.split("/")
            name = name.removesuffix(":0")
            found[f"{layer}/{NAMES.get(name, name)}"] = np.asarray(item)

    try:
        with h5py.File(io.BytesIO(content)) as file:
            file.get("model_weights", file).visititems(keep)
    except OSError as error:
        raise Refused(f"no HDF5 file ({error})") from None
    return found
