"""Images of samples as PNG: a grid of small images, and the trade-off between fidelity and diversity."""

from pathlib import Path
from typing import Any

import numpy as np

from guidance_jax.datasets.images import to_uint8


def save_grid(path: str | Path, images: np.ndarray, columns: int, zoom: int = 4) -> None:
    """Write (n, h, w, c) images in [-1, 1], row by row, `columns` to a row, each pixel `zoom` times as large."""
    from PIL import Image

    n, h, w, c = images.shape
    rows = -(-n // columns)
    cells = np.zeros((rows * columns, h + 1, w + 1, c), np.uint8)
    cells[:n, :h, :w] = to_uint8(images)
    grid = cells.reshape(rows, columns, h + 1, w + 1, c).transpose(0, 2, 1, 3, 4)
    grid = grid.reshape(rows * (h + 1), columns * (w + 1), c).repeat(zoom, 0).repeat(zoom, 1)
    Image.fromarray(grid[..., 0] if c == 1 else grid).save(path)


def contact_sheet(
    path: str | Path, rows: dict[str, np.ndarray], columns: list[str] | None = None, side: int = 40
) -> None:
    """Write rows of (n, h, w, c) images in [-1, 1], each with its name beside it, `columns` named above.

    Small images are enlarged by a whole factor to at least `side` pixels.
    """
    from PIL import Image, ImageDraw, ImageFont

    some = next(iter(rows.values()))
    zoom = max(1, -(-side // some.shape[1]))
    high, wide = some.shape[1] * zoom + 2, some.shape[2] * zoom + 2
    font = ImageFont.load_default(13)
    left = 12 + int(max(font.getlength(name) for name in rows))
    top = 20 if columns else 0
    count = max(len(images) for images in rows.values())
    sheet = Image.new("RGB", (left + count * wide, top + len(rows) * high), "white")
    draw = ImageDraw.Draw(sheet)
    for i, name in enumerate(columns or ()):
        draw.text((left + (i + 0.5) * wide, top / 2), name, "black", font, anchor="mm")
    for j, (name, images) in enumerate(rows.items()):
        draw.text((6, top + (j + 0.5) * high), name, "black", font, anchor="lm")
        for i, image in enumerate(to_uint8(images)):
            shown = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image[..., :3])
            shown = shown.resize((wide - 2, high - 2), Image.Resampling.NEAREST)
            sheet.paste(shown, (left + i * wide, top + j * high))
    sheet.save(path)


def save_curve(path: str | Path, losses: list[float], title: str) -> None:
    """Plot losses over steps, with a running mean."""
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
    """Plot accuracy against diversity over the scales, one line per algorithm, with bootstrap error bars."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    many = len({row["algorithm"] for row in rows}) > 8
    figure, axes = plt.subplots(figsize=(9.6, 6.4) if many else (6.4, 4.2), layout="constrained")
    for algorithm in dict.fromkeys(row["algorithm"] for row in rows):
        own = [row for row in rows if row["algorithm"] == algorithm]
        x, y = ([row["report"][m]["value"] for row in own] for m in ("diversity", "accuracy"))
        xe, ye = ([row["report"][m]["error"] for row in own] for m in ("diversity", "accuracy"))
        axes.errorbar(x, y, ye, xe, marker="o", markersize=4, capsize=2, linewidth=1, label=algorithm)
        for row, a, b in zip(own, x, y):
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
