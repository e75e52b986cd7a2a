"""What a checkpoint says of itself: a network, its domain and its process as JSON, and built again from it.

Nothing is ever built from a file but the classes in `KNOWN`; `register` opens it to networks of one's own.
"""

import dataclasses
import json
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from guidance_jax import schedules
from guidance_jax.core import Refused
from guidance_jax.discrete.process import Absorbing, Uniform
from guidance_jax.models import parameterizations
from guidance_jax.models.domain import Domain
from guidance_jax.networks import adm
from guidance_jax.networks.autoencoder import AutoencoderKL
from guidance_jax.networks.clip_text import CLIPText
from guidance_jax.networks.dit import DiT
from guidance_jax.networks.glide import GLIDEUNet
from guidance_jax.networks.judge import Judge
from guidance_jax.networks.sd_unet import ControlledUNet, ControlNet, StableDiffusionUNet
from guidance_jax.networks.transformer import GPT2, Transformer
from guidance_jax.text.sequence import LeftToRight

FORMAT = "guidance_jax/1"
# what a configuration may name: nothing else is ever built from a file
KNOWN: dict[str, Any] = {
    c.__name__: c
    for c in (
        *(adm.ADMUNet, adm.ADMClassifier, GLIDEUNet, Judge, Domain),
        *(DiT, StableDiffusionUNet, ControlNet, ControlledUNet, AutoencoderKL, CLIPText),
        *(Transformer, GPT2, Absorbing, Uniform, LeftToRight),
        *(schedules.Cosine, schedules.LinearVP, schedules.VE, schedules.RectifiedFlow),
        *(schedules.LinearBetas, schedules.CosineBetas, schedules.ScaledLinearBetas),
        *(parameterizations.Eps, parameterizations.X0, parameterizations.V, parameterizations.Velocity),
        *(parameterizations.Score, parameterizations.EDM, parameterizations.LearnedRange),
        parameterizations.VelocityToData,
    )
}


T = TypeVar("T", bound=Callable)


def register(known: T) -> T:
    """Let checkpoints hold a Linen module, a frozen dataclass or a function of your own; usable as a decorator.

    A checkpoint names it, and it must be registered before it is loaded: code never comes from a file.

    Args:
      known: the class, or the function `apply(params, x, t, cond)` of a `Network`.

    Raises:
      Refused: something that is neither, or another thing of that name.
    """
    if not dataclasses.is_dataclass(known) and not isinstance(known, types.FunctionType):
        raise Refused(f"a checkpoint holds Linen modules, dataclasses and functions, got {known!r}")
    if KNOWN.setdefault(known.__name__, known) is not known:
        raise Refused(f"checkpoints know something else called {known.__name__}; rename yours")
    return known


def describe(thing: Any) -> Any:
    """A dataclass as JSON: its type and its fields; numbers, strings, None and tuples as they are.

    Raises:
      Refused: a type that a checkpoint could not build again.
    """
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        name = type(thing).__name__
        if KNOWN.get(name) is not type(thing):
            raise Refused(f"a checkpoint can hold {', '.join(KNOWN)}, got {name}; write register({name}) before")
        own = [f.name for f in dataclasses.fields(thing) if f.name not in ("parent", "name")]
        fields = {name: getattr(thing, name) for name in own}  # Linen keeps some fields out of `vars`
        return {"type": name, **{k: describe(v) for k, v in fields.items()}}
    if isinstance(thing, types.FunctionType):
        if KNOWN.get(thing.__name__) is not thing:
            raise Refused(f"a checkpoint names functions that are registered; write register({thing.__name__}) before")
        return {"function": thing.__name__}
    if isinstance(thing, list | tuple):
        return [describe(v) for v in thing]
    if thing is None or isinstance(thing, bool | int | float | str):
        return thing
    raise Refused(f"a configuration holds numbers, strings and {', '.join(KNOWN)}, got {type(thing).__name__}")


def build(description: Any) -> Any:
    """What `describe` described."""
    if isinstance(description, Mapping):
        fields = dict(description)
        name = str(fields.pop("type", None) or fields.get("function"))
        cls = KNOWN.get(name)
        if cls is None:
            raise Refused(f"unknown type {name!r}; known are {', '.join(KNOWN)}: write register({name}) for your own")
        if "function" in description:
            return cls
        return cls(**{k: build(v) for k, v in fields.items()})
    return tuple(build(v) for v in description) if isinstance(description, list) else description


def config(
    network: Any,
    domain: Domain | None,
    parameterization: Any = None,
    *,
    process: Any = None,
    batched: bool | None = False,
    options: Mapping[str, Any] | None = None,
    **training: Any,
) -> dict:
    """The configuration of a checkpoint: a denoiser if it has a parameterization or a process, else a classifier.

    `batched` is that of `Network`, `options` what every call of the network is given besides.
    """
    return {
        "format": FORMAT,
        "network": describe(network),
        "batched": batched,
        "options": {k: describe(v) for k, v in (options or {}).items()},
        "domain": describe(domain),
        "parameterization": describe(parameterization),
        "process": describe(process),
        "training": training,
    }


def difference(a: Any, b: Any, path: str = "") -> str | None:
    """The first field in which two configurations differ, with both values."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in [*a, *(k for k in b if k not in a)]:
            found = difference(a.get(key), b.get(key), f"{path}.{key}" if path else key)
            if found:
                return found
        return None
    return None if a == b else f"{path}: {a!r} there, {b!r} here"


def today(found: dict) -> dict:
    """A configuration as this version would write it: fields newer than the checkpoint have their defaults."""
    parts = {k: describe(build(found.get(k))) for k in ("network", "domain", "parameterization", "process")}
    return {"batched": False, "options": {}, **found, **json.loads(json.dumps(parts))}


def read_config(directory: str | Path) -> dict:
    """The configuration of a checkpoint directory.

    Raises:
      Refused: no checkpoint, or one of something else.
    """
    path = Path(directory) / "config.json"
    if not path.exists():
        raise Refused(
            f"{directory} is not a guidance_jax checkpoint (no config.json); train one with guidance-jax train"
        )
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise Refused(f"{path} is damaged ({error}); restore it or train into another folder") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise Refused(f"{path} is not of the format {FORMAT}; it belongs to something else")
    return found
