"""Files from outside, read whole: text, JSON, TOML and arrays. What is wrong with one is a refusal of one line."""

import json
import tomllib
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from guidance_jax.core import Refused
from guidance_jax.datasets.images import from_uint8

LARGEST = 2**26  # bytes of a file of settings
PIXELS = 2**26  # of a picture that is a measurement


def check_file(path: str | Path, what: str = "", largest: int | None = None) -> Path:
    """`path`, if it is a file that can be read: nothing waits for a pipe, nothing reads a folder or a device.

    Raises:
      Refused: no such file, something else than a file, one that may not be read or is larger than `largest` bytes.
    """
    path, what = Path(path), f"the {what} " if what else ""
    try:
        size = path.stat().st_size
        if not path.is_file():
            kind = "a folder" if path.is_dir() else "a pipe or a device"
            raise Refused(f"cannot read {what}{path}: it is {kind}; give a file")
        with path.open("rb"):
            pass
    except (OSError, ValueError) as error:
        if isinstance(error, Refused):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise Refused(f"cannot read {what}{path} ({reason}); give a file that is there and may be read") from None
    if largest is not None and size > largest:
        raise Refused(f"cannot read {what}{path}: it has {size} bytes, at most {largest} are read; give another file")
    return path


def read_text(path: str | Path, what: str = "") -> str:
    """The text of a small file, in UTF-8.

    Raises:
      Refused: as `check_file`; bytes that are no text.
    """
    try:
        return check_file(path, what, LARGEST).read_text("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(f"{path} is no text in UTF-8 (byte {error.start}); restore it, or give another file") from None


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file.

    Raises:
      Refused: as `read_text`; a file that is no TOML (the place is named).
    """
    source = read_text(path)
    try:
        return tomllib.loads(source)
    except ValueError as error:  # `TOMLDecodeError` is one; numbers of thousands of digits are another
        raise Refused(f"{path} is no TOML ({error}); mend that place") from None
    except RecursionError:
        raise Refused(f"{path} is no TOML that can be meant (lists in lists in lists); mend it") from None


def read_json(path: Path, repair: str) -> dict[str, Any]:
    """A JSON file that holds a table; `repair` is what to do with a damaged one.

    Raises:
      Refused: as `read_text`; a file that is no JSON, or no table.
    """
    source = read_text(path)
    try:
        found = json.loads(source)
    except (ValueError, RecursionError) as error:
        reason = error if isinstance(error, ValueError) else "lists in lists in lists"
        raise Refused(f"{path} is damaged ({reason}); {repair}") from None
    if not isinstance(found, Mapping):
        raise Refused(f"{path} is damaged (it holds no table); {repair}")
    return dict(found)


def read_arrays(path: Path, what: str, names: tuple[str, ...] | None = None) -> dict[str, np.ndarray]:
    """Arrays of an .npz file, or "arr_0" of an .npy file; no objects, nothing larger than the file says it holds.

    Args:
      names: which; by default the first one.

    Raises:
      Refused: as `check_file`; a file that is cut short or damaged, or something else by that name.
    """
    check_file(path, what)
    try:
        if names is None and not zipfile.is_zipfile(path):
            return {"arr_0": np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))}
        if not zipfile.is_zipfile(path):
            raise Refused(f"the {what} {path} is no .npz file; write one with numpy.savez")
        with np.load(path, allow_pickle=False) as file:
            found = {k: file[k] for k in (file.files[:1] if names is None else names) if k in file.files}
        if not all(isinstance(array, np.ndarray) for array in found.values()):  # NumPy gives others back as bytes
            raise ValueError("it holds something else than arrays")
        return found
    except Refused:
        raise
    except Exception as error:  # NumPy, zipfile and zlib have no common type for damage
        raise Refused(f"cannot read the {what} {path} ({one_line(error)}); it is damaged, or something else") from None


def one_line(error: Exception) -> str:
    """The first line of an error, or its type."""
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


def read_measurement(path: str) -> np.ndarray:
    """A measurement: a NumPy file, or a picture with values in [-1, 1].

    Raises:
      Refused: a missing or unreadable file, one without numbers, numbers that are not finite.
    """
    if path.endswith((".npy", ".npz")):
        found = next(iter(read_arrays(Path(path), "measurement").values()), np.zeros(0))
        if found.dtype.kind not in "biuf" or found.size == 0:
            raise Refused(f"the measurement {path} has no numbers ({found.dtype} of shape {found.shape}); give floats")
        found = found.astype(np.float32)
        if not np.isfinite(found).all():
            raise Refused(f"the measurement {path} has numbers that are not finite; mend or mask them")
        return found
    check_file(path, "measurement")
    from PIL import Image

    try:
        bomb = Image.DecompressionBombWarning
        with warnings.catch_warnings(action="error", category=bomb), Image.open(path) as image:
            if image.mode not in ("L", "RGB"):
                raise Refused(f"the measurement {path} has Pillow's mode {image.mode}; convert it to RGB or L, 8 bits")
            if image.width * image.height > PIXELS:
                raise Refused(f"the measurement {path} has {image.width} x {image.height} pixels; give a smaller one")
            return from_uint8(np.asarray(image)[None])[0]
    except Refused:
        raise
    except Exception as error:  # every plugin of Pillow has its own types for damage
        reason = f"cannot read the measurement {path} ({one_line(error)})"
        raise Refused(f"{reason}; give an .npy file or a picture") from None
