"""From a file of someone else's weights to a checkpoint of ours, and from one format of ours to the other."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guidance_jax.checkpoints.adm import UNKNOWN, Found, Options, adm
from guidance_jax.checkpoints.config import build, config, read_config
from guidance_jax.checkpoints.edm import edm, is_edm
from guidance_jax.checkpoints.flat import save_flat
from guidance_jax.checkpoints.glide import glide, is_glide
from guidance_jax.checkpoints.safetensors_file import Tensors
from guidance_jax.checkpoints.store import read_params, save_params
from guidance_jax.checkpoints.torch_file import read_torch
from guidance_jax.core import Refused
from guidance_jax.schedules import CosineBetas, LinearBetas, Schedule

SCHEDULES = {"cosine": CosineBetas(1000), "linear": LinearBetas(1000)}
WRITERS = {"safetensors": save_flat, "orbax": save_params}


def schedule_named(name: str | None) -> Schedule | None:
    """OpenAI's schedule of that name, with 1,000 steps."""
    if name is not None and name not in SCHEDULES:
        raise Refused(f"schedule is one of {', '.join(SCHEDULES)}, got {name!r}")
    return None if name is None else SCHEDULES[name]


def read_state(path: str | Path) -> Mapping[str, Any]:
    """The state dict of a `.safetensors` or `.pt` file; reading executes nothing.

    Raises:
      Refused: a missing, truncated, foreign or malicious file.
    """
    path = Path(path)
    return Tensors(path) if path.suffix == ".safetensors" and path.is_file() else read_torch(path)


def recognised(state: Mapping[str, Any], known: Options = UNKNOWN) -> Found:
    """The network that a state dict belongs to: an ADM U-Net or classifier, GLIDE's U-Net or EDM's of ADM's kind.

    Raises:
      Refused: none of them, or an incomplete one; see `adm`, `glide` and `edm`.
    """
    if is_edm(state):
        return edm(state)
    return glide(state, known) if is_glide(state) else adm(state, known)


def converted(source: Path, out: Path, to: str = "safetensors", known: Options = UNKNOWN) -> tuple[str, Any, Any]:
    """Write `source`, a state dict or a checkpoint folder, into `out`/denoiser or `out`/classifier.

    Returns:
      (the folder's name, the network, its domain).

    Raises:
      Refused: what cannot be read or recognised, or a folder that is not empty; nothing is written then.
    """
    if to not in WRITERS:
        raise Refused(f"to is one of {', '.join(WRITERS)}, got {to!r}")
    if source.is_dir():
        about, params = read_config(source), read_params(source)
    else:
        found = recognised(read_state(source), known)
        about = config(found.network, found.domain, found.parameterization, source=source.name)
        params = found.params
    network, domain = build(about["network"]), build(about["domain"])
    name = source.name if source.is_dir() else "classifier" if about["parameterization"] is None else "denoiser"
    WRITERS[to](out / name, params, about)
    return name, network, domain
