"""IDX files, the format of MNIST and Fashion-MNIST (big-endian header, then bytes), gzipped or not."""

import gzip
import struct
from pathlib import Path

import numpy as np

from guidance_jax.core import Refused
from guidance_jax.datasets.images import Images, from_uint8

FASHION = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def read_idx(path: str | Path) -> np.ndarray:
    """The array of one IDX file of bytes.

    Raises:
      Refused: not an IDX file of bytes, or one cut short.
    """
    path = Path(path)
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile) as error:
        raise Refused(f"{path} is not a whole gzip file ({error}); fetch it again") from None
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise Refused(f"{path} is not an IDX file of bytes: it starts with {raw[:4]!r}, expected 00 00 08")
    dims = struct.unpack_from(f">{raw[3]}I", raw, 4) if len(raw) >= 4 + 4 * raw[3] else (-1,)
    body = raw[4 + 4 * raw[3] :]
    if len(body) != int(np.prod(dims)):
        raise Refused(f"{path} should hold {dims} bytes, got {len(body)}; fetch it again")
    return np.frombuffer(body, np.uint8).reshape(dims)


def idx(folder: str | Path, part: str = "train", names: tuple[str, ...] | None = None) -> Images:
    """The images and labels `{part}-images-idx3-ubyte[.gz]` and `{part}-labels-idx1-ubyte[.gz]` of a folder.

    `part` is "train" or "t10k". Fashion-MNIST's four files come with Debian's package `dataset-fashion-mnist`
    (in /usr/share/datasets/fashion-mnist); `names=FASHION` are its classes.

    Raises:
      Refused: a missing, foreign or truncated file.
    """
    folder = Path(folder)
    arrays = []
    for kind in ("images-idx3", "labels-idx1"):
        found = [p for p in (folder / f"{part}-{kind}-ubyte.gz", folder / f"{part}-{kind}-ubyte") if p.exists()]
        if not found:
            raise Refused(
                f"{folder} has no {part}-{kind}-ubyte[.gz]; for Fashion-MNIST: apt-get install dataset-fashion-mnist, "
                "then idx('/usr/share/datasets/fashion-mnist')"
            )
        arrays.append(read_idx(found[0]))
    images, labels = arrays
    names = names or tuple(map(str, range(int(labels.max()) + 1)))
    return Images(from_uint8(images), labels.astype(np.int32), names)
