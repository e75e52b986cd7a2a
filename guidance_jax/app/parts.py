"""Build parts of `guidance_jax.methods` by name, with options from flags and configuration files."""

import dataclasses
import difflib
import inspect
import sys
import tomllib
from collections.abc import Mapping
from types import FunctionType
from typing import Any

import jax.numpy as jnp
import numpy as np

from guidance_jax import methods as table
from guidance_jax.app.schema import COUNTS, LABELS, Number, option, show
from guidance_jax.core import Kernel, Refused
from guidance_jax.guidance import Guidance
from guidance_jax.kernels import Reverse
from guidance_jax.methods import OPERATORS, SCALES, SOLVERS, Row, Source

# all methods for models that a folder can contain
METHODS = {n: row for n, row in table.METHODS.items() if row.family not in (table.MACHINERY, table.EMBEDDINGS)}
KINDS = {"method": METHODS, "solver": SOLVERS, "scale": SCALES, "operator": OPERATORS}
MEASURE = (
    "--set measurement.operator.name=Downsample --set measurement.operator.factor=2 --set measurement.observed=y.npy"
)
# how error messages describe the kinds of values
WORDS = {
    table.NUMBER: "a finite number",
    table.STRENGTH: "a finite number or a part",
    table.LABEL: "a label, a whole number from 0",
    table.COUNT: f"a whole number from 1 to {COUNTS}",
    table.FUNCTION: "one of ",
    table.FIXED: "given by the model or the measurement, not on the command line",
}


def find(name: str, rows: Mapping[str, Row], what: str) -> Row:
    """Find the row called `name`; upper and lower case are equal.

    Raises:
      Refused: no such name; the message suggests the nearest names.
    """
    lower = {known.lower(): known for known in rows}
    if name.lower() not in lower:
        for word, others in {**KINDS, "method": table.METHODS}.items():
            if what != word and name.lower() in {other.lower() for other in others}:
                raise Refused(f"{name} is a {word}, not a {what}; run guidance-jax methods {name} to see how to use it")
        near = difflib.get_close_matches(name.lower()[:80], lower, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(lower[n] for n in near)}?" if near else f"known are {', '.join(rows)}"
        raise Refused(f"there is no {what} called {show(name)}; {hint}")
    return rows[lower[name.lower()]]


def summary(cls: type) -> str:
    """Return the first paragraph of a class's docstring, on one line."""
    return " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split())


def options(row: Row, every: bool = False) -> str:
    """Return a row's options as text: `scale [2.0], radius=15.0`; with `every`, also fields that are no options."""
    parts = []
    for field in dataclasses.fields(row.cls):
        source, default = row.sources.get(field.name, Source(table.NUMBER, shown="")), field.default
        if source.shown is None and not every:
            continue
        if default is dataclasses.MISSING:
            parts.append(f"{field.name} [{source.shown}]" if source.shown else field.name)
        else:
            parts.append(f"{field.name}={default.__name__ if isinstance(default, FunctionType) else repr(default)}")
    return ", ".join(parts)


def parse(assignments: list[str]) -> dict[str, Any]:
    """Parse `["radius=10", "scale.name=Window"]` into nested tables; values are TOML, and words need no quotes.

    Raises:
      Refused: an assignment without "=", or two that contradict each other.
    """
    found: dict[str, Any] = {}
    for text_ in assignments:
        key, equals, value = text_.partition("=")
        if not equals or not key.strip():
            raise Refused(f"--set takes option=value, got {show(text_)}; write --set scale=2.0")
        try:
            table = tomllib.loads(f"value = {value}")
        except (ValueError, RecursionError):
            table = {"value": value.strip()}
        if len(table) > 1:
            raise Refused(f"--set takes one option=value at a time, got {show(text_)}; write --set twice")
        value = option(table["value"], key.strip())
        *path, last = key.strip().split(".")
        node = found
        for part in path:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise Refused(f"--set gives {part} twice, once as a value and once as a table ({show(text_)})")
        if isinstance(node.get(last), dict):
            raise Refused(f"--set gives {last} twice, once as a value and once as a table ({show(text_)})")
        node[last] = value
    return found


class Builder:
    """Build parts from tables `{"name": ..., option: ...}`; fields that no table sets come from `given`.

    Attributes:
      given: given(row) -> the `methods.Given` for the row that is being built.
    """

    def __init__(self, given: Any):
        self.given = given

    def make(self, asked: Mapping[str, Any], rows: Mapping[str, Row], what: str = "part", path: str = "") -> Any:
        """Build the part that a table describes.

        Args:
          asked: the table, with "name" and options.
          rows: the rows that the name may be of.
          what: the kind of part, for messages.
          path: the prefix of its options on the command line, for example "solver.".

        Raises:
          Refused: an unknown name or option (the message lists the known ones), or a required option that is missing.
        """
        if "name" not in asked:
            raise Refused(f'the {what} has no name; write name = "..."')
        row = find(str(asked["name"]), rows, what)
        fields = {field.name: field for field in dataclasses.fields(row.cls)}
        for key in asked:
            if key != "name" and key not in fields:
                near = difflib.get_close_matches(key[:80], fields, n=1)
                hint = f"did you mean {near[0]}? " if near else ""
                raise Refused(f"{row.name} has no option {show(key)}; {hint}its options are {', '.join(fields)}")
        given, values = self.given(row), {}
        for name, field in fields.items():
            source = row.sources.get(name)
            value = None if name in asked or source is None or source.get is None else source.get(given)
            if name in asked:
                values[name] = self.read(asked[name], row, field, path)
            elif value is not None:
                values[name] = value
            elif field.default is dataclasses.MISSING:
                if source in (table.OPERATOR, table.MASK, table.STD) and not path:
                    raise Refused(f"{row.name} needs {name} from a measurement; write {MEASURE}")
                write = "give it in Python" if row.kind(field) == table.FIXED else f"write --set {path}{name}=..."
                raise Refused(f"{row.name} needs {name}; {write}")
        return row.cls(**values)

    def read(self, value: Any, row: Row, field: dataclasses.Field, path: str = "") -> Any:
        """Return the value of an option: a number, a list of numbers, a part from its table, a function by its name.

        Raises:
          Refused: a value of another kind than the option's.
        """
        kind, where = row.kind(field), f"{path}{field.name}"
        if isinstance(value, Mapping) and kind in (table.PART, table.STRENGTH):
            source = row.sources[field.name]
            rows, what = {table.SOLVER: (SOLVERS, "solver"), table.OPERATOR: (OPERATORS, "operator")}.get(
                source, (SCALES, "scale") if kind == table.STRENGTH else (table.METHODS | table.GUIDES, field.name)
            )
            part = self.make(value, rows, what, f"{where}.")
            if source in (table.REVERSE, table.UNGUIDED):
                if isinstance(part, Guidance):
                    return Reverse(part, self.given(table.METHODS["Reverse"]).solver)
                if not isinstance(part, Kernel):
                    raise Refused(f"{where} of {row.name} must be a kernel, got {type(part).__name__}")
            return part
        try:
            if kind == table.FLAG and isinstance(value, bool):
                return value
            if kind == table.LABEL:
                return np.int32(Number(0, LABELS, whole=True)(value))
            if kind == table.COUNT:
                return Number(1, COUNTS, whole=True)(value)
            if kind in (table.NUMBER, table.STRENGTH):
                return (
                    value if value == np.inf else Number()(value)
                )  # `schema.option` allows infinity only where it means "no limit"
            if kind == table.NUMBERS:
                return jnp.asarray(value if isinstance(value, list) else [Number()(value)])
            if isinstance(function := functions_like(field.default).get(value), FunctionType):
                return function
        except (ValueError, TypeError):
            pass
        names = ", ".join(functions_like(field.default)) if kind == table.FUNCTION else ""
        write = f"; write --set {where}.name=..." if kind in (table.PART, table.STRENGTH) else ""
        raise Refused(
            f"the option {where} of {row.name} must be {WORDS.get(kind, kind)}{names}, got {show(value)}{write}"
        )


def functions_like(default: Any) -> dict[Any, Any]:
    """Return name -> function for the public functions in the module of `default` with the same parameters."""
    if not isinstance(default, FunctionType):
        return {}
    called = list(inspect.signature(default).parameters)
    return {
        name: f
        for name, f in vars(sys.modules[default.__module__]).items()
        if isinstance(f, FunctionType) and name[0] != "_" and list(inspect.signature(f).parameters) == called
    }
