"""The data that models were trained on: read them, record them beside the models, and measure against them."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from guidance_jax.app.schema import SIDE, Number, is_path, is_text, show
from guidance_jax.checkpoints.config import read_config
from guidance_jax.core import Refused
from guidance_jax.datasets.digits import digits
from guidance_jax.datasets.idx import idx
from guidance_jax.datasets.image_folder import image_folder
from guidance_jax.datasets.images import Images
from guidance_jax.files import write_whole
from guidance_jax.metrics.report import Report, evaluate
from guidance_jax.untrusted import file_at, read_json
from guidance_jax.zoo.judge import TrainedJudge
from guidance_jax.zoo.load import load

Measure = Callable[[np.ndarray, np.ndarray], Report]


NAMED: dict[str, Callable[[], Images]] = {"digits": digits}  # data that are in a Python package
SIDES = 32  # the default size of images of a folder, in pixels
HELD_OUT = 10_000  # held-out images that are measured against, of folders that do not fit into memory


def is_resized(data: str) -> bool:
    """Return whether `data` is a folder of images by class; these may have any size and are resized."""
    return data not in NAMED and not any(Path(data).glob("*-ubyte*"))


def read_data(data: str, size: int | None = None, skip_bad: bool = False) -> Images:
    """Read labelled images: "digits", a folder of IDX files, or a folder of images by class.

    Images of a folder are resized to `size` (None: 32 pixels), and `skip_bad` leaves out those that cannot be read. A
    folder that does not fit into memory is read while it is used. IDX
    images are padded, with black, to sides that are multiples of 4.

    Raises:
      Refused: no such folder, a file in it that cannot be read, or a `size` for data that are not resized.
    """
    folder = Path(data)
    if data not in NAMED and not folder.is_dir():
        known = ", ".join(NAMED)
        raise Refused(f'there is no folder {show(data)}; --data must be a folder of images by class, or "{known}"')
    if size is not None and not is_resized(data):
        raise Refused(f"--size is for a folder of images by class, {data} is not resized; remove it")
    if data in NAMED:
        return NAMED[data]()
    if is_resized(data):
        return image_folder(folder, SIDES if size is None else size, skip_bad=skip_bad, lazy=None)
    for path in folder.glob("*-ubyte*"):
        file_at(path)
    images = idx(folder)
    pad = -images.shape[0] % 4, -images.shape[1] % 4
    edges = ((0, 0), *((p // 2, p - p // 2) for p in pad), (0, 0))
    return Images(np.pad(images.images, edges, constant_values=-1), images.labels, images.names)


def remember(out: Path, data: str, size: int | None, names: tuple[str, ...], skip_bad: bool = False) -> None:
    """Write data.json, which tells `evaluate` and `compare` the models' training data and the names of the classes."""
    where = data if data in NAMED else str(Path(data).absolute())
    about = {"data": where, "size": size or SIDES, "classes": names, "skip_bad": skip_bad}
    text = json.dumps(about, indent=1).encode()
    write_whole(out / "data.json", lambda file: file.write(text))


def data_of(models: str | Path) -> dict[str, Any]:
    """Read what `remember` wrote beside the models; converted models have no such file and give {}.

    Raises:
      Refused: a damaged file.
    """
    path, repair = Path(models) / "data.json", "restore it, or delete it and give --data"
    if not path.exists():
        return {}
    found = read_json(path)
    kinds: dict[str, Any] = {"data": is_path, "size": Number(1, SIDE, whole=True), "classes": names_of_classes}
    kinds["skip_bad"] = lambda value: isinstance(value, bool)
    for key, good in kinds.items():
        try:
            fits = key not in found or good(found[key]) is not False
        except ValueError:
            fits = False
        if not fits:
            raise Refused(f"{path} is damaged ({key} is {show(found[key])}); {repair}")
    return found


def names_of_classes(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_text, value))


def classes_of(models: str | Path) -> tuple[str, ...]:
    """Return the names of the classes that the models were trained on; empty if they are unknown."""
    return tuple(data_of(models).get("classes", ()))


def load_judge(models: Path, data: str | None = None, size: int | None = None) -> tuple[Measure | None, Images | None]:
    """Return the judge of `models` as a function that measures samples, and its held-out images; or (None, None)."""
    if not (models / "judge").exists():
        for flag, value in (("--data", data), ("--size", size)):
            if value is not None:
                raise Refused(f"{flag} is for a judge, and {models} has none; remove it")
        return None, None
    known = data_of(models)
    data = data or known.get("data", "digits")
    if size is None and is_resized(data):
        size = known.get("size")
    skip_bad = known.get("skip_bad", False) and data == known.get("data")
    _, held_out = read_data(data, size, skip_bad).split()
    path = models / "judge" / "config.json"
    classes = read_config(models / "judge")["network"].get("num_classes")
    if not isinstance(classes, int) or isinstance(classes, bool):
        raise Refused(f"{path} is damaged (num_classes is {show(classes)}); restore it or train into another folder")
    if classes != len(held_out.names):
        raise Refused(
            f"the judge in {models} has {classes} classes, but {data} has {len(held_out.names)}; give the judge's data "
            "with --data"
        )
    judge = load(models / "judge", TrainedJudge)
    held_out = held_out.read(HELD_OUT)
    return partial(measure, judge, held_out), held_out


def measure(judge: TrainedJudge, held_out: Images, images: np.ndarray, labels: np.ndarray) -> Report:
    return evaluate(images, labels, held_out, judge)
