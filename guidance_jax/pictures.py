"""Write images as PNG: grids and sheets of samples, loss curves, and the trade-off between fidelity and diversity."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np


def from_uint8(images: np.ndarray) -> np.ndarray:
    """Convert images from 0..255 to [-1, 1], and add a channel axis if there is none.

    Args:
      images: uint8, (n, h, w, c) or (n, h, w).
    """
    images = images if images.ndim == 4 else images[..., None]
    return images.astype(np.float32) / 127.5 - 1


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Convert images from [-1, 1] to 0..255. Numbers outside are clipped, and NaN becomes 0 (black).

    Args:
      images: in [-1, 1], of any shape.
    """
    return np.clip(np.nan_to_num(np.asarray(images), nan=-1.0) * 127.5 + 127.5, 0, 255).round().astype(np.uint8)


def save_grid(path: str | Path, images: np.ndarray, columns: int, zoom: int = 4) -> None:
    """Write (n, h, w, c) images in [-1, 1], row by row, `columns` to a row, each pixel `zoom` times as large.

    Args:
      path: the PNG file.
    """
    from PIL import Image

    n, h, w, c = images.shape
    rows = -(-n // columns)
    cells = np.zeros((rows * columns, h + 1, w + 1, c), np.uint8)
    cells[:n, :h, :w] = to_uint8(images)
    grid = cells.reshape(rows, columns, h + 1, w + 1, c).transpose(0, 2, 1, 3, 4)
    grid = grid.reshape(rows * (h + 1), columns * (w + 1), c).repeat(zoom, 0).repeat(zoom, 1)
    Image.fromarray(grid[..., 0] if c == 1 else grid).save(path)


def contact_sheet(
    path: str | Path,
    rows: dict[str, np.ndarray],
    columns: list[str] | None = None,
    side: int = 40,
    captions: dict[str, list[str]] | None = None,
) -> None:
    """Write rows of (n, h, w, c) images in [-1, 1], each with its name beside it and names of the `columns` above.

    Small images are enlarged by a whole factor to at least `side` pixels. Letters of any script are drawn if this
    machine has a font with them. Otherwise their code points are written, such as <U+732B>.

    Args:
      captions: for a row, by its name, a text for each image, written below it in up to three lines; None for none.
      path: the PNG file.
    """
    from PIL import Image, ImageDraw

    some = next(iter(rows.values()))
    zoom = max(1, -(-side // some.shape[1]))
    high, wide = some.shape[1] * zoom + 2, some.shape[2] * zoom + 2
    names = {name: fit_text(name) for name in rows}
    heads = [fit_text(name) for name in columns or ()]
    below = {name: [lines(text, wide - 4) for text in (captions or {}).get(name, ())] for name in rows}
    strip = {name: LINE * max((len(text.split("\n")) for text, _ in texts), default=0) for name, texts in below.items()}
    left = 12 + int(max(font.getlength(text) for text, font in names.values()))
    top = 20 if columns else 0
    count = max(len(images) for images in rows.values())
    size = left + count * wide, top + len(rows) * high + sum(strip.values())
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for i, (text, font) in enumerate(heads):
        draw.text((left + (i + 0.5) * wide, top / 2), text, "black", font, anchor="mm")
    for name, images in rows.items():
        text, font = names[name]
        draw.text((6, top + 0.5 * high), text, "black", font, anchor="lm")
        for i, image in enumerate(to_uint8(images)):
            shown = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image[..., :3])
            shown = shown.resize((wide - 2, high - 2), Image.Resampling.NEAREST)
            sheet.paste(shown, (left + i * wide, top))
        for i, (text, font) in enumerate(below[name]):
            for j, line in enumerate(text.split("\n")):
                draw.text((left + i * wide, top + high + j * LINE), line, "black", font)
        top += high + strip[name]
    sheet.save(path)


LINE = 16  # the height in pixels of a line of a caption
PLAIN = frozenset(map(chr, range(32, 127)))  # the characters that Pillow's own font surely has


def fit_text(text: str) -> tuple[str, Any]:
    """Return (the text on one line, a font that has all its letters).

    The font is Pillow's for ASCII, else matplotlib's (Latin, Greek, Cyrillic, ...), else the first of this machine that
    has all letters. If there is none, letters that matplotlib's font lacks are written as their code points.
    """
    from PIL import ImageFont

    text = " ".join(text.split())
    if PLAIN.issuperset(text):
        return text, ImageFont.load_default(13)
    files = fonts()
    for file in files:
        if glyphs(file).issuperset(text):
            try:
                return text, ImageFont.truetype(file, 12)
            except OSError:  # a font of bitmaps, which has one size
                continue
    known = glyphs(files[0])
    return "".join(c if c in known else f"<U+{ord(c):04X}>" for c in text), ImageFont.truetype(files[0], 12)


@cache
def fonts() -> list[str]:
    """Return the font files of this machine, matplotlib's own first, upright ones before others.

    "Last Resort" fonts, which have a box for every letter, are left out.
    """
    from matplotlib.font_manager import findfont, fontManager

    entries = [e for e in fontManager.ttflist if "last resort" not in e.name.lower()]
    entries.sort(key=lambda e: (e.style != "normal", abs(int(e.weight) - 400) if str(e.weight).isdigit() else 0))
    return list(dict.fromkeys([findfont("DejaVu Sans"), *(e.fname for e in entries)]))


@cache
def glyphs(file: str) -> frozenset[str]:
    """Return the letters that a font has."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(map(chr, FT2Font(file).get_charmap()))
    except (OSError, RuntimeError):
        return frozenset()


def lines(text: str, wide: int, most: int = 3) -> tuple[str, Any]:
    """Return (the text in up to `most` lines of at most `wide` pixels, its font). "..." ends a text that is cut."""
    text, font = fit_text(text)
    found = [""]
    for word in text.split(" "):
        if found[-1] and font.getlength(f"{found[-1]} {word}") <= wide:
            found[-1] += f" {word}"
            continue
        if found[-1]:
            found.append("")
        for letter in word:  # a word that is wider than a line goes on in the next
            if found[-1] and font.getlength(found[-1] + letter) > wide:
                found.append("")
            found[-1] += letter
    if len(found) > most:
        last = found[most - 1]
        while last and font.getlength(last + "...") > wide:
            last = last[:-1]
        found = [*found[: most - 1], last + "..."]
    return "\n".join(found), font


def save_curve(path: str | Path, losses: list[float], title: str) -> None:
    """Plot losses over steps, with a running mean.

    Args:
      path: the PNG file.
      losses: the loss of each step.
      title: the title above the plot.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    values = np.asarray(losses, np.float64)
    width = max(1, len(values) // 50)
    mean = np.convolve(values, np.ones(width) / width, "valid")
    figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
    axes.plot(values, linewidth=0.4, alpha=0.4, color="tab:blue")
    axes.plot(np.arange(len(mean)) + width // 2, mean, color="tab:blue")
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def save_trade_off(path: str | Path, rows: list[dict[str, Any]]) -> None:
    """Plot accuracy against diversity over the scales, one line per algorithm, with bootstrap error bars.

    Args:
      path: the PNG file.
      rows: dictionaries, each with an `algorithm`, a `scale` and a `report`.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    many = len({row["algorithm"] for row in rows}) > 8
    figure, axes = plt.subplots(figsize=(9.6, 6.4) if many else (6.4, 4.2), layout="constrained")
    for algorithm in dict.fromkeys(row["algorithm"] for row in rows):
        own = [row for row in rows if row["algorithm"] == algorithm]
        found = [[row["report"][m] for row in own] for m in ("diversity", "accuracy")]
        x, y = ([np.nan if f["value"] is None else f["value"] for f in each] for each in found)
        xe, ye = ([np.nan if f["error"] is None else f["error"] for f in each] for each in found)
        axes.errorbar(x, y, ye, xe, marker="o", markersize=4, capsize=2, linewidth=1, label=algorithm)
        for row, a, b in zip(own, x, y):
            if np.isnan([a, b]).any():
                continue
            axes.annotate(f"{row['scale']:g}", (a, b), textcoords="offset points", xytext=(5, -11), fontsize=8)
    axes.invert_xaxis()
    axes.set_xlabel("diversity within the class asked for  (falls to the right)")
    axes.set_ylabel("accuracy under an independent classifier")
    axes.set_title("Guidance trades diversity for fidelity (numbers: scale)", fontsize=10)
    axes.grid(alpha=0.3)
    if many:
        figure.legend(frameon=False, fontsize=7, loc="outside right upper", ncols=2)
    else:
        axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
