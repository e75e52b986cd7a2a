"""Read the files that a request for a text-to-image model names: adapters, captions, a picture to edit, its mask."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from guidance_jax.core import Level, Refused
from guidance_jax.datasets.arrays import read_array
from guidance_jax.kernels.edit import Edit
from guidance_jax.untrusted import JSON_BYTES, file_at, reading
from guidance_jax.zoo.pipeline import Pipeline

STRENGTH = 0.6  # the default of --strength


def read_adapters(asked: Iterable[str]) -> dict[str, float]:
    """Parse texts FILE or FILE=0.8 into adapter file -> strength; the default strength is 1.

    Raises:
      Refused: a strength that is no number, no file, or a file that is named twice.
    """
    found: dict[str, float] = {}
    for text in asked:
        file, _, strength = text.rpartition("=") if "=" in text else (text, "", "1")
        try:
            value = float(strength)
        except ValueError:
            raise Refused(f"--lora must be FILE or FILE=0.8, got {text[:80]!r}") from None
        if file in found or not file:
            raise Refused(f"--lora names {file[:80]!r} twice or not at all; write FILE=0.8 once for each")
        found[file] = value
    return found


def read_lines(path: Path) -> list[str]:
    """Read the captions of a text file, one per line; empty lines are skipped.

    Raises:
      Refused: a file that cannot be read, that has more than four megabytes, or that has no captions.
    """
    if (size := file_at(path).stat().st_size) > JSON_BYTES:
        raise Refused(
            f"{path} has {size:,} bytes, at most {JSON_BYTES:,} are accepted; check that it is the right file"
        )
    with reading(path, "save it as UTF-8 text"):
        lines = path.read_text("utf-8-sig").splitlines()
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise Refused(f"{path} holds no captions; write one per line")
    return found


def last_steps(levels: Level, strength: float) -> Level:
    """Return the levels of the last steps, a share `strength` of all; at least one step."""
    steps = len(levels.t) - 1
    return levels.at(slice(steps - max(1, int(strength * steps + 1e-9)), None))


def edit_from(kernel: Any, start: str, mask: str | None, shape: tuple[int, ...], pipeline: Pipeline | None) -> Edit:
    """Return `kernel` as an `Edit` that starts from the picture `start`; only the white part of `mask` is drawn anew.

    Raises:
      Refused: pictures of another size than the model's.
    """
    coder = None if pipeline is None else pipeline.autoencoder
    factor = 1 if coder is None else coder.factor
    sides = factor * shape[0], factor * shape[1]
    picture = read_picture(start, sides, "--start", shape[-1] if coder is None else None)
    known = np.zeros((1, 1, 1), np.float32)
    if mask is not None:
        white = read_picture(mask, sides, "--mask", None).max(-1) > 0
        open_ = white.reshape(shape[0], factor, shape[1], factor).any((1, 3))
        known = 1 - open_[..., None].astype(np.float32)
    return Edit(kernel, picture if coder is None else coder.encode(picture[None])[0], known)


def read_picture(path: str, sides: tuple[int, int], flag: str, channels: int | None) -> np.ndarray:
    """Read a picture of these sides in [-1, 1], with `channels` channels; None reads three."""
    found = read_array(Path(path))
    found = found[..., None] if found.ndim == 2 else found
    if found.ndim != 3 or found.shape[:2] != sides:
        raise Refused(
            f"{flag} {path} has shape {found.shape}, but the pictures of this request are {sides[0]} x {sides[1]}; "
            f"crop or resize it to {sides[1]} x {sides[0]} (width x height), or choose the model's size by --size"
        )
    wanted = 3 if channels is None else channels
    if found.shape[-1] == 1:
        found = np.repeat(found, wanted, -1)
    if found.shape[-1] == 4:
        found = found[..., :3]
    if found.shape[-1] != wanted:
        raise Refused(f"{flag} {path} has {found.shape[-1]} channels, expected {wanted}")
    return found
