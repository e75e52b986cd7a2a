"""Read a folder with one sub-folder of images per class, with Pillow."""

import math
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from guidance_jax.core import Refused
from guidance_jax.datasets.image_files import ImageFiles
from guidance_jax.datasets.images import Images
from guidance_jax.datasets.pictures import FORMATS, package, picture
from guidance_jax.pictures import from_uint8
from guidance_jax.untrusted import reading

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
UNREAD = {".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd"}  # pictures that are not read
NAMED = 5  # how many unreadable files a message names


def image_folder(
    folder: str | Path, size: int, mode: str = "RGB", skip_bad: bool = False, lazy: bool | None = False
) -> Images:
    """Read all images under `folder/<class>/`, crop each to its central square, and resize it.

    Images are turned upright as their EXIF data say, and put on white where they are transparent. Classes are the
    sub-folders with images, in alphabetical order. Hidden files and folders (`.ipynb_checkpoints`) are skipped.

    Args:
      folder: the folder that holds one sub-folder per class.
      size: the side of the resized square, in pixels.
      mode: Pillow's mode, "RGB" or "L" (grey).
      skip_bad: True leaves out files that cannot be read, with a warning that names the first of them. False raises.
      lazy: True reads each file when it is used (`ImageFiles`), for folders that do not fit into memory. Only headers
        are checked now; a file that cannot be decoded raises when it is used. None is True if the images would take
        more than half of the memory of this machine.

    Raises:
      Refused: no sub-folder with images, or files that Pillow cannot read; the message names the first of them and
        gives their number.
    """
    kit, _ = package()
    folder = Path(folder)
    classes = sorted(p for p in folder.iterdir() if p.is_dir() and not hidden(p.name)) if folder.is_dir() else []
    inside = {c: [p for p in sorted(c.rglob("*")) if not p.is_dir()] for c in classes}
    foreign = {p.suffix.lower() for paths in inside.values() for p in paths} & UNREAD
    if foreign:
        warnings.warn(
            f"files {', '.join(sorted(foreign))} in {folder} are not read; convert them to .png", stacklevel=2
        )
    images_of = {c: [p for p in paths if is_image(p, c)] for c, paths in inside.items()}
    if empty := [c.name for c in classes if not images_of[c]]:
        warnings.warn(
            f"{folder} has sub-folders without images, which are no classes: {', '.join(empty)}", stacklevel=2
        )
    classes = [c for c in classes if images_of[c]]
    files = [(i, p) for i, c in enumerate(classes) for p in images_of[c]]
    if not files:
        raise Refused(f"{folder} has no images in sub-folders; put them in {folder}/<class>/<name>.png")
    if lazy is None:
        lazy = len(files) * size**2 * (3 if mode == "RGB" else 1) * 4 > total_memory() / 2
    images: list[Any] = []
    labels, bad = [], []
    for label, path in files:
        try:
            images.append(check_header(kit, path) if lazy else picture(path, mode, size))
            labels.append(label)
        except Refused as error:
            bad.append(str(error).rpartition(";")[0])
    if bad:
        named = ", ".join(bad[:NAMED]) + (", ..." if len(bad) > NAMED else "")
        line = f"{len(bad)} of {len(files)} images in {folder} cannot be used: {named}"
        if not skip_bad or not images:
            raise Refused(f"{line}; replace or remove them, or write skip_bad=True")
        warnings.warn(f"{line}; they are skipped", stacklevel=2)
    made = ImageFiles(tuple(images), size, mode) if lazy else from_uint8(np.stack(images))
    return Images(made, np.asarray(labels, np.int32), tuple(c.name for c in classes))


def check_header(kit: Any, path: Path) -> Path:
    """Return `path`, if Pillow recognises the picture in it.

    Raises:
      Refused: a file that Pillow does not recognise.
    """
    with reading(path, "replace or remove it"), kit.open(path, formats=FORMATS):
        return path


def total_memory() -> float:
    """Return the memory of this machine in bytes; infinity where the system does not tell."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return math.inf


def is_image(path: Path, folder: Path) -> bool:
    """Return whether a path under `folder` has the suffix of an image and no hidden folder or file in it."""
    return path.suffix.lower() in SUFFIXES and not any(map(hidden, path.relative_to(folder).parts))


def hidden(name: str) -> bool:
    """Return whether `name` is hidden (it starts with a dot), or is the folder `__MACOSX` that macOS archives leave."""
    return name.startswith(".") or name == "__MACOSX"
