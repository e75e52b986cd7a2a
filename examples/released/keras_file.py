"""Keras' `.h5` files as NumPy arrays, without Keras: layer/weight -> array; nothing in them is run."""

import io
from typing import Any

import numpy as np

from guidance_jax.core import Refused
from guidance_jax.untrusted import check_size, reading

NAMES = {"gamma": "scale", "beta": "bias", "moving_mean": "mean", "moving_variance": "var"}


def read_keras(content: bytes) -> dict[str, np.ndarray]:
    """The weights of a model saved by Keras 2: layer/weight -> array, weights by the names of this package's layers.

    Raises:
      Refused: no such file, one that refers to other files, holds no numbers, or more of them than its size allows;
        h5py is not installed.
    """
    try:
        import h5py
    except ModuleNotFoundError:
        raise Refused('reading .h5 files needs h5py: pip install "guidance_jax[pretrained]"') from None
    found: dict[str, np.ndarray] = {}
    total = 0

    def keep(path: str, item: Any) -> None:
        nonlocal total
        if isinstance(item, h5py.Dataset):
            if item.external is not None or item.is_virtual or item.dtype.kind not in "fiub":
                raise Refused(
                    f"{path[:200]} holds {item.dtype} or lies in another file, expected numbers; save it again"
                )
            check_size(total := total + item.size * item.dtype.itemsize, len(content), "the file")
            layer, *_, name = path.split("/")
            name = name.removesuffix(":0")
            found[f"{layer}/{NAMES.get(name, name)}"] = np.asarray(item)

    with reading("the HDF5 file"), h5py.File(io.BytesIO(content)) as file:
        weights = "model_weights" in file and isinstance(file.get("model_weights", getlink=True), h5py.HardLink)
        (file["model_weights"] if weights else file).visititems(keep)  # visits what is in this file alone
    return found
