"""The models in a folder, as the commands ask for them: read once, and what they say of themselves."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax

from guidance_jax.checkpoints.config import read_config
from guidance_jax.core import Refused
from guidance_jax.schedules import Schedule
from guidance_jax.untrusted import read_json
from guidance_jax.zoo.diffusers.folder import INDEX, load_diffusers
from guidance_jax.zoo.load import denoiser_in, is_pipeline, load
from guidance_jax.zoo.pipeline import Pipeline
from guidance_jax.zoo.rotary.pipeline import is_text


def schedule_of(model: Any) -> Schedule:
    """The schedule that a network was trained on.

    Raises:
      Refused: a network that does not say.
    """
    if model.domain is None or model.domain.schedule is None:
        raise Refused("the network does not state the schedule it was trained on; give it a Domain with a schedule")
    return model.domain.schedule


def about(models: str | Path) -> Any:
    """What the denoiser of a folder says of itself: for manifests and protocols."""
    index = Path(models) / INDEX
    if is_text(models):
        return read_json(Path(models) / "config.json")
    return read_json(index) if index.exists() else read_config(denoiser_in(models))


def is_guided(models: str | Path) -> bool:
    """Whether the denoiser of a pipeline has the scale of guidance as an input."""
    own = Path(models) / "transformer" / "config.json"
    if own.exists():
        return bool(read_json(own).get("guidance_embeds"))
    denoiser = denoiser_in(models) / "config.json"
    network = read_json(denoiser).get("network") if denoiser.exists() else None
    return bool(isinstance(network, dict) and network.get("guided"))


def load_once(folder: Path, dtype: str | None, remat: bool) -> Any:
    """`load`; the same object while the folder stays the same, so that a sweep compiles once."""
    whole = is_pipeline(folder)
    if not whole and not (folder / "config.json").exists():
        read_config(denoiser_in(folder))  # says what is wrong with a folder that has none
    inside = folder if whole or (folder / "config.json").exists() else denoiser_in(folder)
    changed = max(p.lstat().st_mtime_ns for p in (inside, *inside.iterdir()))
    return (_load_pipeline if whole else _load)(folder.absolute(), dtype, remat, changed)


@lru_cache(maxsize=4)
def _load(folder: Path, dtype: str | None, remat: bool, changed: int) -> Any:
    return load(folder, None, dtype, remat)


@lru_cache(maxsize=1)  # pipelines are large
def _load_pipeline(folder: Path, dtype: str | None, remat: bool, changed: int) -> Any:
    return load(folder, None, dtype, remat)


@lru_cache(maxsize=1)
def _load_changed(
    folder: Path, dtype: str | None, remat: bool, lora: tuple[tuple[str, float], ...], control: str | None, changed: int
) -> Any:
    return load_diffusers(folder, dtype, remat=remat, control=control, lora=dict(lora))


def free_encoders(pipeline: Pipeline | None) -> None:
    """Give up the memory of the text encoders, which may be larger than the denoiser; no caption is read afterwards."""
    if pipeline is None or not pipeline.text:
        return
    for array in jax.tree.leaves([encoder.params for encoder in pipeline.text]):
        array.delete()
    for cache in (_load, _load_pipeline, _load_changed):
        cache.cache_clear()


def load_models(
    models: str | Path, dtype: str | None, remat: bool, lora: Mapping[str, float] | None = None, control: Any = None
) -> Any:
    """A `Pipeline` of what a folder holds, with an autoencoder or without; a model of tokens or text as it is.

    Raises:
      Refused: a folder without a denoiser, or something that this version cannot read; adapters or a ControlNet of
        another folder than diffusers'.
    """
    if lora or control:
        if not (Path(models) / INDEX).exists():
            raise Refused(f"--lora and --control are for diffusers folders, and {models} has no {INDEX}")
        files = [Path(models), *map(Path, lora or ()), *([Path(control)] if control else [])]
        changed = max((p.lstat().st_mtime_ns for p in files if p.exists()), default=0)
        adapters = tuple((lora or {}).items())
        return _load_changed(Path(models).absolute(), dtype, remat, adapters, control, changed)
    model = load_once(Path(models), dtype, remat)
    if isinstance(model, Pipeline):
        schedule_of(model)
    return model
