"""Every part of the library by its name and with its own options, for flags and configuration files.

There is no list: the names are the public classes of the groups, the options their fields, the help their docstrings.
"""

import dataclasses
import difflib
import inspect
import sys
import tomllib
from collections.abc import Callable, Mapping
from types import FunctionType, ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np

from guidance_jax import discrete, guidance, kernels, particles, solvers, text
from guidance_jax.app.schema import COUNTS, LABELS, Number, option, shown
from guidance_jax.core import Guide, Kernel, KernelWrapper, Move, Refused, Solver
from guidance_jax.guidance import Contrast, Guidance, Scale, operators
from guidance_jax.guidance.operators import Operator
from guidance_jax.kernels import Reverse

GROUPS: tuple[ModuleType, ...] = (guidance, kernels, particles, discrete, text, solvers, operators)
# what a method may be: a guided denoiser, a kernel, or a move of particles
METHODS = (Guidance, Kernel, Move)
EVERY = (*METHODS, Solver, Scale, Operator)
# no guidance of their own: the plain step, the padding of grids, the machinery around a move
PLUMBING = ("Reverse", "Padded", "SMC")
# of networks that are trained for them: no comparison of what one model can do takes them up
OWN_NETWORK = ("DensityRatio", "Internal", "Learned", "MapSteps")
# what these are made from, unless a table says so
INSIDE = {"LaMBO": "NOS", "Corrected": "CFG", "Reuse": "Classifier", "Clip": "CFG", "DynamicClip": "CFG"}
# what a measurement gives, and how it is asked for
MEASURED = ("operator", "mask", "std", "observed")
MEASURE = (
    "--set measurement.operator.name=Downsample --set measurement.operator.factor=2 --set measurement.observed=y.npy"
)
# fields that hold what steers: the model beside them is the unconditional one
STEERING = ("classifier", "operator", "log_likelihood", "reward", "log_twist", "value", "future", "attribute")
# options that are strengths, lists of numbers, or parts; the others are what their defaults are
SCALES = ("scale", "weak_scale", "spread", "window", "low", "share", "rate")
LISTS = ("mask", "weights", "table", "scales", "known", "banned")
FILLED = (
    *("inner", "model", "kernel", "weak", "proposal", "move", "solver", "operator"),
    *("classifier", "future", "value", "log_likelihood", "log_twist", "reward"),
)
# what no flag and no file can say
PYTHON = ("schedule", "output", "observed", "attribute", "objective", "feasible", "f", "own_adjoint")
# plain numbers for fields that have no default, where a comparison needs some
USUAL: dict[str, Any] = {
    "scale": 2.0,
    "weak_scale": 1.5,
    "weights": [1.0],
    "rho": 1.0,
    "mu": 0.5,
    "rate": 0.1,
    "repeats": 2,
    "std": 0.1,
}


def catalogue(kinds: type | tuple[type, ...]) -> dict[str, type]:
    """The public classes of those kinds, by name."""
    found = {}
    for group in GROUPS:
        for name in vars(group).get("__all__", vars(group)):  # operators is a single file, without
            cls = vars(group).get(name)
            if isinstance(cls, type) and issubclass(cls, kinds) and dataclasses.is_dataclass(cls):
                found[name] = cls
    return found


def methods() -> dict[str, type]:
    """Every way to guide."""
    return {name: cls for name, cls in catalogue(METHODS).items() if name not in PLUMBING}


def named(name: str, kinds: type | tuple[type, ...], what: str) -> type:
    """The class called `name`, in any case.

    Raises:
      Refused: no such name; the nearest ones are offered.
    """
    known = methods() if kinds == METHODS else catalogue(kinds)
    lower = {k.lower(): k for k in known}
    if name.lower() not in lower:
        for other, word in ((Solver, "solver"), (Scale, "scale"), (Operator, "operator"), (METHODS, "method")):
            if what != word and name.lower() in {n.lower() for n in catalogue(other)}:
                raise Refused(f"{name} is a {word}, not a {what}; guidance-jax methods {name} says how it is used")
        near = difflib.get_close_matches(name.lower()[:80], lower, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(lower[n] for n in near)}?" if near else f"known are {', '.join(known)}"
        raise Refused(f"there is no {what} called {shown(name)}; {hint}")
    return known[lower[name.lower()]]


def fields(cls: Any) -> list[dataclasses.Field]:
    """The options of a class, in its order."""
    return list(dataclasses.fields(cls))


def summary(cls: type) -> str:
    """The first sentence of a class, on one line."""
    first = (inspect.getdoc(cls) or "").split("\n\n")[0]
    return " ".join(first.split())


def options(cls: type, given: Mapping[str, Any]) -> str:
    """Its options in words: `scale, radius=15.0`; what is `given` by the context is not an option."""
    parts = []
    for field in fields(cls):
        if field.name in given:
            continue
        default = field.default
        shown = default.__name__ if isinstance(default, FunctionType) else repr(default)
        if default is dataclasses.MISSING:
            parts.append(f"{field.name} [{USUAL[field.name]}]" if field.name in USUAL else field.name)
        else:
            parts.append(f"{field.name}={shown}")
    return ", ".join(parts)


def parsed(assignments: list[str]) -> dict[str, Any]:
    """`["radius=10", "scale.name=Window"]` as nested tables; values are those of TOML, words need no quotes.

    Raises:
      Refused: an assignment without "=", or two that contradict each other.
    """
    found: dict[str, Any] = {}
    for text_ in assignments:
        key, equals, value = text_.partition("=")
        if not equals or not key.strip():
            raise Refused(f"--set takes option=value, got {shown(text_)}; write --set scale=2.0")
        try:
            table = tomllib.loads(f"value = {value}")
        except (ValueError, RecursionError):
            table = {"value": value.strip()}
        if len(table) > 1:
            raise Refused(f"--set takes one option=value at a time, got {shown(text_)}; write --set twice")
        value = option(table["value"], key.strip())
        *path, last = key.strip().split(".")
        node = found
        for part in path:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise Refused(f"--set gives {part} twice, once as a value and once as a table ({shown(text_)})")
        if isinstance(node.get(last), dict):
            raise Refused(f"--set gives {last} twice, once as a value and once as a table ({shown(text_)})")
        node[last] = value
    return found


class Builder:
    """Builds parts from tables `{"name": ..., option: ...}`; `context` has what a field holds if no table says so.

    Attributes:
      context: by the field's name, a function of the class that is being built.
    """

    def __init__(self, context: Mapping[str, Callable[[type], Any]]):
        self.context = context

    def make(
        self, table: Mapping[str, Any], kinds: type | tuple[type, ...] = object, what: str = "part", path: str = ""
    ) -> Any:
        """The part that `table` names; `path` is what comes before its options on the command line.

        Raises:
          Refused: an unknown name or option (the allowed ones are listed), or one that is needed and missing.
        """
        if "name" not in table:
            raise Refused(f'the {what} has no name; write name = "..."')
        cls = named(str(table["name"]), kinds, what)
        known = [f.name for f in fields(cls)]
        for key in table:
            if key != "name" and key not in known:
                near = difflib.get_close_matches(key[:80], known, n=1)
                hint = f"did you mean {near[0]}? " if near else ""
                raise Refused(f"{cls.__name__} has no option {shown(key)}; {hint}its options are {', '.join(known)}")
        values = {}
        for field in fields(cls):
            if field.name in table:
                values[field.name] = self.value(table[field.name], cls, field, path)
            elif field.name in self.context and (found := self.context[field.name](cls)) is not None:
                values[field.name] = found
            elif field.default is dataclasses.MISSING:
                if field.name in MEASURED and not path:
                    raise Refused(f"{cls.__name__} needs {field.name}, of a measurement; write {MEASURE}")
                write = "give it in Python" if kind_of(cls, field) == FIXED else f"write --set {path}{field.name}=..."
                raise Refused(f"{cls.__name__} needs {field.name}; {write}")
        return cls(**values)

    def value(self, value: Any, cls: type, field: dataclasses.Field, path: str = "") -> Any:
        """What an option of `cls` holds: a number, a list of them, a part by its table, a function by its name.

        Raises:
          Refused: a value of another kind than the option is.
        """
        expected, where = kind_of(cls, field), f"{path}{field.name}"
        if isinstance(value, Mapping) and expected in (PART, NUMBER_OR_PART):
            usual = ((Scale,), "scale") if expected == NUMBER_OR_PART else ((Guide, *METHODS), field.name)
            kinds, what = KINDS.get(field.name, usual)
            part = self.make(value, kinds, what, f"{where}.")
            wants_kernel = (issubclass(cls, KernelWrapper) and field.name == "inner") or field.name == "kernel"
            if wants_kernel and isinstance(part, Guidance):
                return Reverse(part, self.context["solver"](Reverse))
            if wants_kernel and not isinstance(part, Kernel):
                raise Refused(f"{where} of {cls.__name__} is a kernel, got {type(part).__name__}")
            return part
        try:
            if expected == FLAG and isinstance(value, bool):
                return value
            if expected == LABEL:
                return np.int32(Number(0, LABELS, whole=True)(value))
            if expected == COUNT:
                return Number(1, COUNTS, whole=True)(value)
            if expected in (NUMBER, NUMBER_OR_PART) and value == np.inf:
                return value  # `schema.option` lets it pass where it means: none
            if expected in (NUMBER, NUMBER_OR_PART):
                return Number()(value)
            if expected == NUMBERS:
                return jnp.asarray(value if isinstance(value, list) else [Number()(value)])
            if isinstance(found := functions_like(field.default).get(value), FunctionType):
                return found
        except (ValueError, TypeError):
            pass
        names = ", ".join(functions_like(field.default)) if isinstance(field.default, FunctionType) else ""
        write = f"; write --set {where}.name=..." if expected in (PART, NUMBER_OR_PART) else ""
        raise Refused(f"the option {where} of {cls.__name__} is {expected}{names}, got {shown(value)}{write}")


# the parts that some options are
KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "solver": ((Solver,), "solver"),
    "operator": ((Operator,), "operator"),
}
# what an option may be
FLAG, COUNT, NUMBER = "true or false", f"a whole number from 1 to {COUNTS}", "a finite number"
LABEL, NUMBERS, PART = "a label, a whole number from 0", "a list of numbers", "a part"
NUMBER_OR_PART = "a finite number or a part"
FUNCTION, FIXED = "one of ", "no option of the command line: the model or the measurement gives it"


def kind_of(cls: type, field: dataclasses.Field) -> str:
    """What the option `field` of a class may be, by its name and its default."""
    default, static = field.default, field.metadata.get("static", False)
    if field.name in SCALES:
        return NUMBER_OR_PART
    if field.name in LISTS or (field.name == "kernel" and issubclass(cls, Operator)):
        return NUMBERS
    if field.name == "null":
        return LABEL
    if field.name in FILLED:
        return PART
    if field.name in PYTHON:
        return FIXED
    if isinstance(default, bool):
        return FLAG
    if isinstance(default, FunctionType):
        return FUNCTION
    return COUNT if static or isinstance(default, int) or field.name == "top_k" else NUMBER


def functions_like(default: Any) -> dict[Any, Any]:
    """The public functions beside `default` that are called as it is, by name."""
    if not isinstance(default, FunctionType):
        return {}
    called = list(inspect.signature(default).parameters)
    return {
        name: f
        for name, f in vars(sys.modules[default.__module__]).items()
        if isinstance(f, FunctionType) and name[0] != "_" and list(inspect.signature(f).parameters) == called
    }


def needs(cls: type, name: str) -> bool:
    """Whether a method has such a field."""
    return name in {f.name for f in fields(cls)}


def family(cls: Any) -> str:
    """Where a method belongs in a list."""
    group = cls.__module__.split(".")[1]
    if group in ("discrete", "text", "embeddings"):
        return {"discrete": "tokens", "text": "text", "embeddings": "embeddings"}[group]
    if issubclass(cls, Move) or group == "particles":
        return "particles: a population for each sample"
    if issubclass(cls, Kernel):
        return "kernels: change the step"
    if (issubclass(cls, Contrast) and not needs(cls, "classifier")) or needs(cls, "null"):
        return "contrasts of two predictions"
    return "gradients, and wrappers"
