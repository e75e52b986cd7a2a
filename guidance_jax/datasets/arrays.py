"""Read NumPy's files safely: nothing is unpickled, and a stated size is compared with the file before it is used."""

import io
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from guidance_jax.core import Refused
from guidance_jax.datasets.pictures import channels_of, picture
from guidance_jax.pictures import from_uint8
from guidance_jax.untrusted import check_size, file_at, reading


def read_array(path: str | Path) -> np.ndarray:
    """Read a measurement as float32: an `.npy` file, the first array of an `.npz` file, or a picture in [-1, 1].

    Raises:
      Refused: a missing or unreadable file, no array of numbers, or numbers that are not finite.
    """
    path = file_at(path)
    with reading(path, "give an .npy file or a picture"), path.open("rb") as file:
        start = file.read(6)
    if start == npy.MAGIC_PREFIX:
        found = read_npy(path.read_bytes(), path)
    elif start[:2] == b"PK":
        found = next(iter(read_npz(path).values()))
    else:
        found = from_uint8(picture(path, channels_of)[None])[0]
    if found.dtype.kind not in "fiub":
        raise Refused(f"{path} holds an array of {found.dtype}, expected numbers; save it with numpy.save")
    with np.errstate(over="ignore"):
        found = found.astype(np.float32)
    if not np.isfinite(found).all():
        raise Refused(
            f"{path} holds {np.sum(~np.isfinite(found))} numbers that are not finite; a measurement must be finite"
        )
    return found


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """Read the arrays of an `.npz` file, as name -> array.

    Raises:
      Refused: a missing, damaged or foreign file, one without arrays, or one that unpacks to more than its size allows.
    """
    path, found = file_at(path), {}
    with reading(path), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        check_size(sum(m.file_size for m in members), path.stat().st_size, path)
        for member in members:
            if member.filename.endswith(".npy"):
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise Refused(f"{path} is compressed by a method that NumPy does not use; save it with numpy.savez")
                with archive.open(member) as file:  # `archive.read` may unpack 2 GiB before it looks at the size
                    content = file.read(member.file_size)
                found[member.filename.removesuffix(".npy")] = read_npy(content, path)
    if not found:
        raise Refused(f"{path} holds no arrays; save them with numpy.savez")
    return found


def read_npy(raw: bytes, where: Any) -> np.ndarray:
    """Read the array in the bytes `raw` of an `.npy` file; errors name the file as `where`.

    Raises:
      Refused: a damaged or foreign file, an array of Python objects, or data of another length than the header states.
    """
    file = io.BytesIO(raw)
    with reading(where):
        version = npy.read_magic(file)
        header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, by_columns, dtype = header(file)
    if dtype.hasobject or dtype.itemsize == 0 or min(shape, default=1) < 0:
        raise Refused(f"{where} holds an array of {dtype} of shape {shape}, expected numbers; save it with numpy.save")
    if math.prod(shape) * dtype.itemsize != len(raw) - file.tell():
        raise Refused(f"{where} claims to hold {dtype} of shape {shape}, which does not match its size; fetch it again")
    with reading(where):
        return np.frombuffer(raw, dtype, offset=file.tell()).reshape(shape, order="F" if by_columns else "C")
