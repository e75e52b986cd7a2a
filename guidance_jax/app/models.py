"""The models in a folder: of training, of `convert`, or of diffusers as it was downloaded."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from guidance_jax.checkpoints.config import read_config
from guidance_jax.checkpoints.diffusers import INDEX, load_diffusers
from guidance_jax.checkpoints.load import load
from guidance_jax.checkpoints.pipeline import ABOUT, Parts
from guidance_jax.core import Refused
from guidance_jax.models.network import Network
from guidance_jax.pipelines.pipeline import Pipeline
from guidance_jax.schedules import Schedule
from guidance_jax.untrusted import read_json


def schedule_of(model: Any) -> Schedule:
    """The schedule that a network was trained on.

    Raises:
      Refused: a network that does not say.
    """
    if model.domain is None or model.domain.schedule is None:
        raise Refused("the network does not say which schedule it was trained on; give it a Domain with one")
    return model.domain.schedule


def denoiser_in(models: str | Path) -> Path:
    """The folder of the denoiser among trained models: `denoiser`, or `model` of sequences."""
    folder = Path(models)
    return folder / "model" if (folder / "model" / "config.json").exists() else folder / "denoiser"


def is_pipeline(models: str | Path) -> bool:
    """Whether a folder holds more than networks of pictures or sequences: an autoencoder, text encoders."""
    folder = Path(models)
    return any((folder / name).exists() for name in (INDEX, ABOUT, "autoencoder", "denoiser/tokenizer.json"))


def about(models: str | Path) -> Any:
    """What the denoiser of a folder says of itself: for manifests and protocols."""
    index = Path(models) / INDEX
    return read_json(index) if index.exists() else read_config(denoiser_in(models))


def loaded(folder: Path, dtype: str | None, remat: bool) -> Any:
    """The network in a folder; the same object while the folder stays the same, so that a sweep compiles once."""
    read_config(folder)  # says what is wrong with a folder that has none
    return _loaded(folder.absolute(), dtype, remat, changed(folder))


def changed(folder: Path) -> int:
    """When a folder last changed."""
    return max(p.lstat().st_mtime_ns for p in (folder, *folder.iterdir()))


@lru_cache(maxsize=4)
def _loaded(folder: Path, dtype: str | None, remat: bool, changed: int) -> Any:
    return load(folder, None, dtype, remat)


@lru_cache(maxsize=1)
def _pipeline(folder: Path, dtype: str | None, remat: bool, changed: int) -> Pipeline:
    if (folder / INDEX).exists():
        return load_diffusers(folder, dtype, remat=remat)
    return Parts.read(folder).assembled(dtype, remat)


def models_in(models: str | Path, dtype: str | None, remat: bool) -> Any:
    """A `Pipeline` of what a folder holds, with an autoencoder or without; a model of tokens or text as it is.

    Raises:
      Refused: a folder without a denoiser, or something that this version cannot read.
    """
    folder = Path(models)
    if is_pipeline(folder):
        found = _pipeline(folder.absolute(), dtype, remat, changed(folder))
    else:
        found = loaded(denoiser_in(folder), dtype, remat)
        found = Pipeline(found, clip=1.0) if isinstance(found, Network) else found
    if isinstance(found, Pipeline):
        schedule_of(found)
    return found
