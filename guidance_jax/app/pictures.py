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


def save_trade_off(path: str | Path, rows: list[dict[str, Any]]) -> None:
    """Plot accuracy against diversity over the scales, one line per algorithm, with bootstrap error bars."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
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
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
