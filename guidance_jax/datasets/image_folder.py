"""A folder with one sub-folder of images per class, read with Pillow."""

from pathlib import Path

import numpy as np

from guidance_jax.core import Refused
from guidance_jax.datasets.images import Images, from_uint8

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif"}


def image_folder(folder: str | Path, size: int, mode: str = "RGB") -> Images:
    """All images under `folder/<class>/`, centre-cropped to a square and resized to (size, size).

    `mode` is Pillow's: "RGB" or "L" (grey). Classes are the sub-folders in alphabetical order.

    Raises:
      Refused: no sub-folder with images, or a file that Pillow cannot read (named).
    """
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ModuleNotFoundError:
        raise Refused('reading image folders needs Pillow; pip install "guidance_jax[demo]"') from None
    folder = Path(folder)
    classes = sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    files = [(i, p) for i, c in enumerate(classes) for p in sorted(c.rglob("*")) if p.suffix.lower() in SUFFIXES]
    if not files:
        raise Refused(f"{folder} has no images in sub-folders; put them in {folder}/<class>/<name>.png")
    images = []
    for _, path in files:
        try:
            with Image.open(path) as image:
                images.append(np.asarray(ImageOps.fit(image.convert(mode), (size, size), Image.Resampling.LANCZOS)))
        except (UnidentifiedImageError, OSError) as error:
            raise Refused(f"cannot read {path} ({error}); replace or remove it") from None
    labels = np.asarray([i for i, _ in files], np.int32)
    return Images(from_uint8(np.stack(images)), labels, tuple(c.name for c in classes))
