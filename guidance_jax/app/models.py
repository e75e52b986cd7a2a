"""Load the models in a folder for the commands, once per folder, and read their configurations."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax

from guidance_jax.checkpoints.config import read_config
from guidance_jax.core import Refused
from guidance_jax.schedules import Schedule
from guidance_jax.untrusted import folder_at, read_json
from guidance_jax.zoo.diffusers.folder import INDEX, load_diffusers
from guidance_jax.zoo.load import denoiser_in, is_pipeline, load
from guidance_jax.zoo.pipeline import Pipeline
from guidance_jax.zoo.rotary.pipeline import is_text


def schedule_of(model: Any) -> Schedule:
    """Return the schedule on which a network was trained.

    Raises:
      Refused: a network without a domain, or whose domain has no schedule.
    """
    if model.domain is None or model.domain.schedule is None:
        raise Refused("the network does not state the schedule it was trained on; give it a Domain with a schedule")
    return model.domain.schedule


def about(models: str | Path) -> Any:
    """Read the configuration of the denoiser in a folder, for manifests and protocols."""
    index = Path(models) / INDEX
    if is_text(models):
        return read_json(Path(models) / "config.json")
    return read_json(index) if index.exists() else read_config(denoiser_in(models))


def is_guided(models: str | Path) -> bool:
    """Return whether the denoiser of a pipeline has the guidance scale as an input."""
    own = Path(models) / "transformer" / "config.json"
    if own.exists():
        return bool(read_json(own).get("guidance_embeds"))
    denoiser = denoiser_in(models) / "config.json"
    network = read_json(denoiser).get("network") if denoiser.exists() else None
    return bool(isinstance(network, dict) and network.get("guided"))


def load_once(folder: Path, dtype: str | None, remat: bool) -> Any:
    """Load a folder; return the same object while the folder is unchanged, so that a sweep compiles once."""
    folder_at(folder)
    whole = is_pipeline(folder)
    if not whole and not (folder / "config.json").exists():
        if not denoiser_in(folder).is_dir():
            raise Refused(
                f"{folder} holds no models (no denoiser, no model_index.json); train some with guidance-jax train"
            )
        read_config(denoiser_in(folder))  # raises `Refused` if the folder has no configuration
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
    """Free the memory of the text encoders, which may exceed the denoiser's; afterwards no caption can be encoded."""
    if pipeline is None or not pipeline.text:
        return
    for array in jax.tree.leaves([encoder.params for encoder in pipeline.text]):
        array.delete()
    for cache in (_load, _load_pipeline, _load_changed):
        cache.cache_clear()


def load_models(
    models: str | Path, dtype: str | None, remat: bool, lora: Mapping[str, float] | None = None, control: Any = None
) -> Any:
    """Load the model in a folder, with adapters `lora` (file -> strength) and a ControlNet `control`.

    The result is a `Pipeline`, with or without an autoencoder, or a network, a model of tokens or of text.

    Raises:
      Refused: a folder without a denoiser, or one that this version cannot read; adapters or a ControlNet for a folder
        that is not in the format of diffusers.
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
