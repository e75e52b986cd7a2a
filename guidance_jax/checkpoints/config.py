"""What a checkpoint says of itself: a network, its domain and its process as JSON, and built again from it.

Nothing is ever built from a file but the classes in `KNOWN`; `register` opens it to networks of one's own.
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np

from guidance_jax import schedules
from guidance_jax.core import Refused
from guidance_jax.discrete.process import Absorbing, Process, Uniform
from guidance_jax.models import parameterizations
from guidance_jax.models.constructors import OnFlow
from guidance_jax.models.domain import Domain
from guidance_jax.text.sequence import LeftToRight
from guidance_jax.untrusted import read_json, reading

FORMAT = "guidance_jax/1"
# what a configuration may name, beside what is registered, as all networks of `zoo` are: nothing else is ever built
KNOWN: dict[str, Any] = {
    c.__name__: c
    for c in (
        *(Domain, Absorbing, Uniform, LeftToRight),
        *(schedules.Cosine, schedules.LinearVP, schedules.VE, schedules.RectifiedFlow),
        *(schedules.LinearBetas, schedules.CosineBetas, schedules.ScaledLinearBetas),
        *(parameterizations.Eps, parameterizations.X0, parameterizations.V, parameterizations.Velocity),
        *(parameterizations.Score, parameterizations.EDM, parameterizations.LearnedRange),
        *(parameterizations.VelocityToData, OnFlow),
    )
}
# bounds of what a configuration may ask for: any whole number, entries of a list, numbers in one sample
LARGEST, LONGEST, SAMPLE = 2**20, 2**10, 2**26
DTYPES = ("float16", "bfloat16", "float32", "float64")
# the entries of a configuration that are read, with what each may be; training may write others beside them
NEEDED = 4  # of them are in every configuration
ENTRIES: dict[str, Any] = {
    "format": str,
    "network": dict,
    "domain": dict | None,
    "parameterization": dict | None,
    "batched": bool | None,
    "options": dict,
    "process": dict | None,
    "given": str | None,
    "training": dict,
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
        raise Refused(f"a checkpoint can hold Linen modules, dataclasses and functions, got {known!r}")
    if KNOWN.setdefault(known.__name__, known) is not known:
        raise Refused(f"another object is already registered under the name {known.__name__}; rename yours")
    return known


def describe(thing: Any) -> Any:
    """A dataclass as JSON: its type and its fields; numbers, strings, None and tuples as they are.

    Raises:
      Refused: a type that a checkpoint could not build again.
    """
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        name = type(thing).__name__
        if KNOWN.get(name) is not type(thing):
            raise Refused(f"a checkpoint can hold {', '.join(KNOWN)}, got {name}; write register({name}) first")
        own = [f.name for f in dataclasses.fields(thing) if f.name not in ("parent", "name")]
        fields = {name: getattr(thing, name) for name in own}  # Linen keeps some fields out of `vars`
        return {"type": name, **{k: describe(v) for k, v in fields.items()}}
    if isinstance(thing, types.FunctionType):
        if KNOWN.get(thing.__name__) is not thing:
            raise Refused(
                f"a checkpoint can refer only to registered functions; write register({thing.__name__}) first"
            )
        return {"function": thing.__name__}
    if isinstance(thing, list | tuple):
        return [describe(v) for v in thing]
    if isinstance(thing, np.dtype | type(jnp.float32)):
        return np.dtype(thing).name
    if thing is None or isinstance(thing, bool | int | float | str):
        return thing
    raise Refused(f"a configuration can hold numbers, strings and {', '.join(KNOWN)}, got {type(thing).__name__}")


def build(description: Any) -> Any:
    """What `describe` described.

    Raises:
      Refused: a type that is not known, a field that it does not have or that has another type than its annotation
        says, and numbers beyond `LARGEST`.
    """
    if isinstance(description, Mapping) and "function" in description:
        name = description["function"]
        found = KNOWN.get(name) if isinstance(name, str) else None
        if not isinstance(found, types.FunctionType) or len(description) > 1:
            raise Refused(f"unknown function {str(name)[:80]!r}; write register(...) for your own")
        return found
    if isinstance(description, Mapping):
        name = description.get("type")
        cls = KNOWN.get(name) if isinstance(name, str) else None
        if not isinstance(cls, type):
            raise Refused(f"unknown type {str(name)[:80]!r}; known are {', '.join(KNOWN)}: register your own")
        return construct(cls, {k: build(v) for k, v in description.items() if k != "type"})
    if isinstance(description, list):
        if len(description) > LONGEST:
            raise Refused(f"a list of a configuration has at most {LONGEST} entries, got {len(description)}")
        return tuple(build(v) for v in description)
    if isinstance(description, int | float) and not abs(description) <= LARGEST:
        raise Refused(
            f"numbers of a configuration must lie between -{LARGEST:,} and {LARGEST:,}, got {description:.3g}"
        )
    return description


def construct(cls: Any, values: Mapping[str, Any]) -> Any:
    """The dataclass `cls` with these values of its fields.

    Raises:
      Refused: a field that is not there, is missing, or is of another type; a value that the class refuses.
    """
    own = check_fields(cls, values, leave_out=("parent", "name"))
    if "dtype" in own and values.get("dtype") is not None:
        if values["dtype"] not in DTYPES:
            raise Refused(f"{cls.__name__} has dtype = {values['dtype']!r}, expected {', '.join(DTYPES)} or null")
        values = {**values, "dtype": jnp.dtype(values["dtype"])}
    with reading(f"a {cls.__name__}", "restore the configuration"):
        found = cls(**values)
    if isinstance(found, Domain):
        shapes = [found.shape, *dict(found.context or ()).values()]
        if not all(min(shape, default=1) >= 1 and math.prod(shape) <= SAMPLE for shape in shapes):
            raise Refused(f"the shapes of a domain must have 1 to {SAMPLE:,} numbers, got {shapes}")
    return found


def check_fields(
    cls: Any, values: Mapping[str, Any], leave_out: tuple[str, ...] = (), unchecked: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The fields of a dataclass by name, which `values` fits.

    Raises:
      Refused: a field that is not there, is missing, or is of another type than its annotation says.
    """
    own = {f.name: f for f in dataclasses.fields(cls) if f.init and f.name not in leave_out}
    unset = [n for n, f in own.items() if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    strange, missing = [k for k in values if k not in own], [n for n in unset if n not in values]
    if strange or missing:
        wrong = f"has no field {strange[0][:80]!r}" if strange else f"needs the field {missing[0]!r}, which is missing"
        raise Refused(f"{cls.__name__} {wrong}; its fields are {', '.join(own)}")
    for name, value in values.items():
        if name not in unchecked and not fits(value, own[name].type):
            raise Refused(f"{cls.__name__} has {name} = {repr(value)[:80]}, expected {annotation(own[name].type)}")
    return own


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated type; annotations that say nothing here fit everything."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, one) for one in inside)
    if origin is tuple:
        if not isinstance(value, tuple) or (inside[-1] is not Ellipsis and len(value) != len(inside)):
            return False
        return all(fits(v, inside[0 if inside[-1] is Ellipsis else i]) for i, v in enumerate(value))
    if origin is not None:
        return not isinstance(origin, type) or isinstance(value, origin)
    if hint is Any:
        return True
    if hint is None or hint is types.NoneType:
        return value is None
    if hint in (int, bool):  # True is an int to Python, and no number to a reader
        return type(value) is hint
    if hint is float:
        return type(value) in (int, float)
    return not isinstance(hint, type) or isinstance(value, hint)


def annotation(hint: Any) -> str:
    """An annotation as one writes it."""
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)


class Built(typing.NamedTuple):
    """The objects of a configuration."""

    network: Any
    domain: Domain | None
    parameterization: parameterizations.Parameterization | None
    process: Any


def build_parts(about: Mapping[str, Any], where: Any = "the checkpoint") -> Built:
    """What a configuration describes: network, domain, parameterization and process.

    Raises:
      Refused: as `build`, and an object of another kind; `where` names its place.
    """
    kinds = {"domain": Domain, "parameterization": parameterizations.Parameterization, "process": Process}
    found: dict[str, Any] = {}
    for entry in Built._fields:
        try:
            found[entry] = build(about.get(entry))
        except Refused as error:
            raise Refused(f"{where}, {entry}: {error}") from None
        if not isinstance(found[entry], kinds.get(entry, object) | None):
            raise Refused(f"{where}, {entry}: expected a {entry}, got a {type(found[entry]).__name__}")
    network = found["network"]
    if network is None or isinstance(network, (*kinds.values(), schedules.Schedule)):
        raise Refused(f"{where}, network: expected a network, got a {type(network).__name__}")
    return Built(**found)


def config(
    network: Any,
    domain: Domain | None,
    parameterization: Any = None,
    *,
    process: Any = None,
    batched: bool | None = False,
    options: Mapping[str, Any] | None = None,
    given: str | None = None,
    **training: Any,
) -> dict:
    """The configuration of a checkpoint: a denoiser if it has a parameterization or a process, else a classifier.

    `batched` is that of `Network`, `options` what every call of the network is given besides.

    Args:
      network, domain, parameterization, process: what the checkpoint holds, as in `Network` and `TokenNetwork`.
      batched: as in `Network`.
      options: what every call of the network is given besides.
      given: as in `TokenNetwork`.
      training: how it was trained, kept as it is.
    """
    return {
        "format": FORMAT,
        "network": describe(network),
        "batched": batched,
        "options": {k: describe(v) for k, v in (options or {}).items()},
        "domain": describe(domain),
        "parameterization": describe(parameterization),
        "process": describe(process),
        **({} if given is None else {"given": given}),
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
    parts = {k: describe(build(found.get(k))) for k in Built._fields}
    return {"batched": False, "options": {}, **found, **json.loads(json.dumps(parts))}


def read_config(directory: str | Path, of_network: bool = True) -> dict:
    """The configuration of a checkpoint directory, `of_network` or of some other run of `fit`.

    Raises:
      Refused: no checkpoint, or one of something else.
    """
    path = Path(directory) / "config.json"
    if not path.exists():
        raise Refused(
            f"{directory} is not a guidance_jax checkpoint (no config.json); train one with guidance-jax train"
        )
    try:
        found = read_json(path)
    except Refused as error:
        raise Refused(f"{path} is damaged ({error}); restore it or train into another folder") from None
    if found.get("format") != FORMAT:
        raise Refused(f"{path} is not in the format {FORMAT}; it belongs to another program")
    for i, (entry, hint) in enumerate(ENTRIES.items()):
        if not of_network and found.get(entry) is None:
            continue
        if (i < NEEDED or entry in found) and not fits(found.get(entry, ...), hint):
            raise Refused(f"{path} has {entry} = {repr(found.get(entry))[:80]}, expected {annotation(hint)}")
    return found
