"""IDX files, the format of MNIST and Fashion-MNIST (big-endian header, then bytes), gzipped or not."""

import math
import struct
from pathlib import Path

import numpy as np

from guidance_jax.core import Refused
from guidance_jax.datasets.images import Images
from guidance_jax.pictures import from_uint8
from guidance_jax.untrusted import file_at, reading, unzip

FASHION = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def read_idx(path: str | Path) -> np.ndarray:
    """Read the uint8 array of one IDX file, gzipped if its name ends in `.gz`.

    Raises:
      Refused: not an IDX file of bytes, or one cut short.
    """
    path = file_at(path)
    with reading(path), path.open("rb") as file:
        raw = unzip(file, path.stat().st_size, path) if path.suffix == ".gz" else file.read()
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise Refused(f"{path} is not an IDX file of bytes: it starts with {raw[:4]!r}, expected 00 00 08")
    start = 4 + 4 * raw[3]
    dims = struct.unpack_from(f">{raw[3]}I", raw, 4) if len(raw) >= start else (-1,)
    if len(raw) < start or raw[3] > 4 or len(raw) - start != math.prod(dims):
        raise Refused(f"{path} should hold {dims[:4]} bytes, got {len(raw) - start}; fetch it again")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(dims)


def idx(folder: str | Path, part: str = "train", names: tuple[str, ...] | None = None) -> Images:
    """Read the images and labels `{part}-images-idx3-ubyte[.gz]` and `{part}-labels-idx1-ubyte[.gz]` of a folder.

    `part` is "train" or "t10k". `names` are the class names; None names the classes by their numbers. Fashion-MNIST's
    four files come with Debian's package `dataset-fashion-mnist` (in /usr/share/datasets/fashion-mnist); its class
    names are `FASHION`.

    Raises:
      Refused: a missing, foreign or truncated file; files that do not hold images and one label for each.
    """
    folder = Path(folder)
    arrays = []
    for kind, axes in (("images-idx3", 3), ("labels-idx1", 1)):
        found = [p for p in (folder / f"{part}-{kind}-ubyte.gz", folder / f"{part}-{kind}-ubyte") if p.exists()]
        if not found:
            raise Refused(
                f"{folder} has no {part}-{kind}-ubyte[.gz]; for Fashion-MNIST: apt-get install dataset-fashion-mnist, "
                "then idx('/usr/share/datasets/fashion-mnist')"
            )
        arrays.append(read_idx(found[0]))
        if arrays[-1].ndim != axes or arrays[-1].size == 0:
            raise Refused(f"{found[0]} holds an array of shape {arrays[-1].shape}, expected {axes} axes, none empty")
    images, labels = arrays
    names = names or tuple(map(str, range(int(labels.max()) + 1)))
    return Images(from_uint8(images), labels.astype(np.int32), names)
