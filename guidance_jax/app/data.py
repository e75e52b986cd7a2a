"""The data that models were trained on: read, remembered beside them, and measured against."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from guidance_jax.checkpoints.config import read_config
from guidance_jax.checkpoints.load import load
from guidance_jax.core import Refused
from guidance_jax.datasets.digits import digits
from guidance_jax.datasets.idx import idx
from guidance_jax.datasets.image_folder import image_folder
from guidance_jax.datasets.images import Images
from guidance_jax.files import write_whole
from guidance_jax.metrics.report import Report, evaluate
from guidance_jax.networks.judge import TrainedJudge

Measure = Callable[[np.ndarray, np.ndarray], Report]


def read(data: str, size: int) -> Images:
    """Labelled images: "digits", a folder of IDX files, or a folder of images by class."""
    if data == "digits":
        return digits()
    folder = Path(data)
    if not folder.is_dir():
        raise Refused(f'there is no folder {data!r}; --data is a folder of images by class, or "digits"')
    if not any(folder.glob("*-ubyte*")):
        return image_folder(folder, size)
    images = idx(folder)
    pad = -images.shape[0] % 4, -images.shape[1] % 4
    edges = ((0, 0), *((p // 2, p - p // 2) for p in pad), (0, 0))
    return Images(np.pad(images.images, edges, constant_values=-1), images.labels, images.names)


def remember(out: Path, data: str, size: int, names: tuple[str, ...]) -> None:
    """What models are trained on, beside them: `evaluate` and `compare` measure against it, labels go by name."""
    where = data if data == "digits" else str(Path(data).absolute())
    text = json.dumps({"data": where, "size": size, "classes": names}, indent=1).encode()
    write_whole(out / "data.json", lambda file: file.write(text))


def data_of(models: str | Path) -> dict[str, Any]:
    """What `remember` wrote beside models; nothing beside converted ones."""
    path = Path(models) / "data.json"
    return json.loads(path.read_text()) if path.exists() else {}


def classes_of(models: str | Path) -> tuple[str, ...]:
    """The names of the classes that models were trained on, where they are known."""
    return tuple(data_of(models).get("classes", ()))


def judged(models: Path, data: str | None = None, size: int | None = None) -> tuple[Measure | None, Images | None]:
    """How the judge beside `models` measures samples, and the held-out images it does so against; None without one."""
    if not (models / "judge").exists():
        return None, None
    known = data_of(models)
    data, size = data or known.get("data", "digits"), size or known.get("size", 32)
    _, held_out = read(data, size).split()
    classes = read_config(models / "judge")["network"]["num_classes"]
    if classes != len(held_out.names):
        raise Refused(f"the judge in {models} knows {classes} classes, {data} has {len(held_out.names)}; name its data")
    judge = load(models / "judge", TrainedJudge)
    return partial(measured, judge, held_out), held_out


def measured(judge: TrainedJudge, held_out: Images, images: np.ndarray, labels: np.ndarray) -> Report:
    return evaluate(images, labels, held_out, judge)
