"""Configurations of checkpoints: a network, its domain and its process, written as JSON and built again from it.

Only the classes and functions in `KNOWN` are ever built from a file; `register` adds your own networks to them.
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
# the names that a configuration may contain; `register` adds others, and all networks of `zoo` are registered
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
# upper bounds in a configuration: of any number, of the entries of a list, of the numbers in one sample
LARGEST, LONGEST, SAMPLE = 2**20, 2**10, 2**26
DTYPES = ("float16", "bfloat16", "float32", "float64")
# the entries of a configuration that are read, with their types; a file may have other entries
NEEDED = 4  # the first four entries are in every configuration
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
    """Let checkpoints contain a Linen module, a frozen dataclass or a function of your own; usable as a decorator.

    A checkpoint stores only the name. Register the object before you load the checkpoint: code never comes from a file.

    Args:
      known: the class, or the function `apply(params, x, t, cond)` of a `Network`.

    Raises:
      Refused: an object that is neither, or a name that is registered for another object.
    """
    if not dataclasses.is_dataclass(known) and not isinstance(known, types.FunctionType):
        raise Refused(f"a checkpoint can hold Linen modules, dataclasses and functions, got {known!r}")
    if KNOWN.setdefault(known.__name__, known) is not known:
        raise Refused(f"another object is already registered under the name {known.__name__}; rename yours")
    return known


def describe(thing: Any) -> Any:
    """Describe a dataclass as JSON by its type and its fields; numbers, strings and None stay, tuples become lists.

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
    """Build the object that `describe` described.

    Raises:
      Refused: a type that is not known, a field that the type does not have, a value of another type than the field's
        annotation, or numbers beyond `LARGEST`.
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
    """Build the dataclass `cls` with these values of its fields.

    Raises:
      Refused: a field that `cls` does not have, a missing field, or one of another type; a value that `cls` refuses.
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
    """Check `values` against the fields of the dataclass `cls`, and return these fields by name.

    Args:
      cls: the dataclass.
      values: field name -> value.
      leave_out: fields that `values` must not contain, and that are not returned.
      unchecked: fields whose type is not compared.

    Raises:
      Refused: a field that `cls` does not have, a missing field, or a value of another type than its annotation.
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
    """Return whether a value is of an annotated type; annotations that cannot be checked here fit everything."""
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
    if hint in (int, bool):  # in Python True is an int; here it is no number
        return type(value) is hint
    if hint is float:
        return type(value) in (int, float)
    return not isinstance(hint, type) or isinstance(value, hint)


def annotation(hint: Any) -> str:
    """Return an annotation as it is written in code."""
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)


class Built(typing.NamedTuple):
    """The objects that a configuration describes; None for each that it does not have."""

    network: Any
    domain: Domain | None
    parameterization: parameterizations.Parameterization | None
    process: Any


def build_parts(about: Mapping[str, Any], where: Any = "the checkpoint") -> Built:
    """Build the network, domain, parameterization and process of a configuration.

    Raises:
      Refused: whatever `build` refuses, or an object of another kind; the message begins with `where`.
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
    """Return the configuration of a checkpoint, a dictionary that can be written as JSON.

    With a parameterization or a process it describes a denoiser, else a classifier.

    Args:
      network: the Linen module, or a function that was registered with `register`.
      domain: the `Domain` that the network was trained for; None if it has none.
      parameterization: what the output of the network means, for images and vectors; None for others.
      process: the process of tokens; None for images and vectors.
      batched: as in `Network`.
      options: further keyword arguments of every call of the network; None for none.
      given: as in `TokenNetwork`.
      training: settings of the training, stored unchanged.
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
    """Return the first field in which two configurations differ, with both values; None if they are equal."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in [*a, *(k for k in b if k not in a)]:
            found = difference(a.get(key), b.get(key), f"{path}.{key}" if path else key)
            if found:
                return found
        return None
    return None if a == b else f"{path}: {a!r} there, {b!r} here"


def today(found: dict) -> dict:
    """Return a configuration as this version writes it: fields that the checkpoint lacks get their defaults."""
    parts = {k: describe(build(found.get(k))) for k in Built._fields}
    return {"batched": False, "options": {}, **found, **json.loads(json.dumps(parts))}


def read_config(directory: str | Path, of_network: bool = True) -> dict:
    """Read the configuration of a checkpoint directory.

    Args:
      directory: the checkpoint.
      of_network: True requires the entries of a network; False allows a run of `fit` on something else.

    Raises:
      Refused: no checkpoint, a damaged one, or one of another format.
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
