"""Read picture files as viewers show them, with Pillow."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from guidance_jax.core import Refused
from guidance_jax.untrusted import check_size, file_at, reading

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # for some others Pillow starts external programs


def package() -> Any:
    try:
        from PIL import Image, ImageOps
    except ModuleNotFoundError:
        raise Refused('reading pictures needs Pillow; pip install "guidance_jax[demo]"') from None
    return Image, ImageOps


def picture(path: str | Path, mode: str | Callable[[Any], str] = "RGB", size: int | None = None) -> np.ndarray:
    """Read the picture in a file as uint8 (height, width, channels).

    The picture is turned upright as its EXIF data say, and put on white where it is transparent. An animation gives
    its first frame; 16-bit grey is converted to 8 bits.

    Args:
      path: the file.
      mode: Pillow's mode, "RGB" or "L" (grey), or a function image -> mode.
      size: the side of the square that the picture's central square is scaled to, in pixels; None keeps the whole
        picture at its own size.

    Raises:
      Refused: no file, one that Pillow cannot read, or one with more pixels than its size allows.
    """
    image_kit, operations = package()
    path = file_at(path)
    with reading(path, "replace or remove it"), image_kit.open(path, formats=FORMATS) as image:
        check_size(4 * image.width * image.height, path.stat().st_size, path)  # Pillow uses up to four bytes per pixel
        shown = flat(operations.exif_transpose(image))
        shown = shown.convert(mode if isinstance(mode, str) else mode(shown))
        if size is not None:
            shown = operations.fit(shown, (size, size), image_kit.Resampling.LANCZOS)
        found = np.asarray(shown)
    return found if found.ndim == 3 else found[..., None]


def channels_of(image: Any) -> str:
    """Return the mode that keeps a picture's kind: "L" for grey, else "RGB"."""
    return "L" if image.mode in ("1", "L") else "RGB"


def flat(image: Any) -> Any:
    """Convert a picture to 8 bits without transparency, on white."""
    image_kit, _ = package()
    if image.mode.startswith(("I", "F")):  # Pillow's own conversion clips 16 bits at 255
        values = np.asarray(image)
        if image.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise Refused(f"{image.mode} holds numbers beyond 16 bits; save it with 8 or 16 bits a channel")
        image = image_kit.fromarray(np.round(values / 257).astype(np.uint8))
    if not ("transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa")):
        return image
    grey = image.mode in ("1", "L", "LA", "La")
    image = image.convert("RGBA")
    white = image_kit.new("RGBA", image.size, "white")
    return image_kit.alpha_composite(white, image).convert("L" if grey else "RGB")
