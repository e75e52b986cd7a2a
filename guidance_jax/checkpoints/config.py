"""What a checkpoint says of itself: a network, its domain and its process as JSON, and built again from it.

Nothing is ever built from a file but the classes in `KNOWN`; `register` opens it to networks of one's own.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guidance_jax import schedules
from guidance_jax.core import Refused
from guidance_jax.discrete.process import Absorbing, Uniform
from guidance_jax.models import parameterizations
from guidance_jax.models.domain import Domain
from guidance_jax.networks import adm
from guidance_jax.networks.glide import GLIDEUNet
from guidance_jax.networks.judge import Judge
from guidance_jax.networks.transformer import GPT2, Transformer
from guidance_jax.text.sequence import LeftToRight

FORMAT = "guidance_jax/1"
# what a configuration may name: nothing else is ever built from a file
KNOWN: dict[str, type] = {
    c.__name__: c
    for c in (
        *(adm.ADMUNet, adm.ADMClassifier, GLIDEUNet, Judge, Domain),
        *(Transformer, GPT2, Absorbing, Uniform, LeftToRight),
        *(schedules.Cosine, schedules.LinearVP, schedules.VE, schedules.RectifiedFlow),
        *(schedules.LinearBetas, schedules.CosineBetas),
        *(parameterizations.Eps, parameterizations.X0, parameterizations.V, parameterizations.Velocity),
        *(parameterizations.Score, parameterizations.EDM, parameterizations.LearnedRange),
    )
}


def register(cls: type) -> type:
    """Let checkpoints hold `cls`, a frozen dataclass or Linen module of your own; usable as a decorator.

    Raises:
      Refused: something that is no dataclass, or another class of that name.
    """
    if not dataclasses.is_dataclass(cls):
        raise Refused(f"a checkpoint holds dataclasses and Linen modules, got {cls.__name__}")
    if KNOWN.setdefault(cls.__name__, cls) is not cls:
        raise Refused(f"checkpoints know another class called {cls.__name__}; rename yours")
    return cls


def describe(thing: Any) -> Any:
    """A dataclass as JSON: its type and its fields; numbers, strings, None and tuples as they are.

    Raises:
      Refused: a type that a checkpoint could not build again.
    """
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        name = type(thing).__name__
        if KNOWN.get(name) is not type(thing):
            raise Refused(f"a checkpoint can hold {', '.join(KNOWN)}, got {name}; save its parameters with orbax")
        own = [f.name for f in dataclasses.fields(thing) if f.name not in ("parent", "name")]
        fields = {name: getattr(thing, name) for name in own}  # Linen keeps some fields out of `vars`
        return {"type": name, **{k: describe(v) for k, v in fields.items()}}
    if isinstance(thing, list | tuple):
        return [describe(v) for v in thing]
    if thing is None or isinstance(thing, bool | int | float | str):
        return thing
    raise Refused(f"a configuration holds numbers, strings and {', '.join(KNOWN)}, got {type(thing).__name__}")


def build(description: Any) -> Any:
    """What `describe` described."""
    if isinstance(description, Mapping):
        fields = dict(description)
        cls = KNOWN.get(fields.pop("type", None))
        if cls is None:
            raise Refused(f"unknown type {description.get('type')!r}; this version knows {', '.join(KNOWN)}")
        return cls(**{k: build(v) for k, v in fields.items()})
    return tuple(build(v) for v in description) if isinstance(description, list) else description


def config(network: Any, domain: Domain, parameterization: Any = None, *, process: Any = None, **training: Any) -> dict:
    """The configuration of a checkpoint: a denoiser if it has a parameterization or a process, else a classifier."""
    return {
        "format": FORMAT,
        "network": describe(network),
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
    return {**found, **json.loads(json.dumps(parts))}


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
