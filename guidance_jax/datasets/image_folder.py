"""Read a folder with one sub-folder of images per class, with Pillow."""

import warnings
from pathlib import Path

import numpy as np

from guidance_jax.core import Refused
from guidance_jax.datasets.images import Images
from guidance_jax.datasets.pictures import package, picture
from guidance_jax.pictures import from_uint8

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif"}
NAMED = 5  # how many unreadable files a message names


def image_folder(folder: str | Path, size: int, mode: str = "RGB", skip_bad: bool = False) -> Images:
    """Read all images under `folder/<class>/`, crop each to its central square, and resize it.

    Images are turned upright as their EXIF data say, and put on white where they are transparent. Classes are the
    sub-folders in alphabetical order. Hidden files and folders (`.ipynb_checkpoints`) are skipped.

    Args:
      folder: the folder that holds one sub-folder per class.
      size: the side of the resized square, in pixels.
      mode: Pillow's mode, "RGB" or "L" (grey).
      skip_bad: True leaves out files that cannot be read, with a warning that names the first of them. False raises.

    Raises:
      Refused: no sub-folder with images, or files that Pillow cannot read; the message names the first of them and
        gives their number.
    """
    package()
    folder = Path(folder)
    classes = sorted(p for p in folder.iterdir() if p.is_dir() and not hidden(p.name)) if folder.is_dir() else []
    files = [(i, p) for i, c in enumerate(classes) for p in sorted(c.rglob("*")) if is_image(p, c)]
    if not files:
        raise Refused(f"{folder} has no images in sub-folders; put them in {folder}/<class>/<name>.png")
    images, labels, bad = [], [], []
    for label, path in files:
        try:
            images.append(picture(path, mode, size))
            labels.append(label)
        except Refused as error:
            bad.append(str(error).rpartition(";")[0])
    if bad:
        named = ", ".join(bad[:NAMED]) + (", ..." if len(bad) > NAMED else "")
        line = f"{len(bad)} of {len(files)} images in {folder} cannot be used: {named}"
        if not skip_bad or not images:
            raise Refused(f"{line}; replace or remove them, or write skip_bad=True")
        warnings.warn(f"{line}; they are skipped", stacklevel=2)
    return Images(from_uint8(np.stack(images)), np.asarray(labels, np.int32), tuple(c.name for c in classes))


def is_image(path: Path, folder: Path) -> bool:
    """Return whether a path under `folder` has the suffix of an image and no hidden folder or file in it."""
    named = path.suffix.lower() in SUFFIXES and not any(map(hidden, path.relative_to(folder).parts))
    return named and not path.is_dir()


def hidden(name: str) -> bool:
    """Return whether `name` is hidden (it starts with a dot), or is the folder `__MACOSX` that macOS archives leave."""
    return name.startswith(".") or name == "__MACOSX"
