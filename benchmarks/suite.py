"""One suite: a benchmark is a function that yields rows, `python -m benchmarks NAME` runs it and writes them to a file:

    {"benchmark": name, "about": {versions, device}, "settings": {...},
     "rows": [{"case": {...}, "measures": {name: {"value", "error", "unit"}}, "cost": {...}}, ...]}

The first line of its docstring is the question, its arguments are the settings and the options of the command. One that
takes `known` is given the rows that the file already has of the same settings, and does not measure them again.
"""

import argparse
import importlib.metadata
import importlib.util
import inspect
import json
import platform
import time
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import numpy as np


class Measure(NamedTuple):
    """What was measured, with its standard error and its unit where it has them; None is what could not be."""

    value: float | None
    error: float | None = None
    unit: str | None = None


class Row(NamedTuple):
    """What was tried, what came out, and what it cost."""

    case: dict[str, Any]
    measures: dict[str, Any]  # a `Measure`, a number, or a mapping with the fields of a `Measure`
    cost: dict[str, Any] = {}  # noqa: RUF012  never changed


class Benchmark(NamedTuple):
    """A function that yields rows; `quick` are the settings that only try the machinery."""

    f: Callable[..., Iterator[Row]]
    quick: dict[str, Any]
    about: Callable[[], dict[str, Any]]
    fixed: dict[str, Any]


def benchmark(
    quick: dict[str, Any] | None = None, packages: tuple[str, ...] = ("jax",), **fixed: Any
) -> Callable[[Callable], Benchmark]:
    """Make a function that yields rows a benchmark.

    Args:
      quick: settings of `--quick`.
      packages: whose versions are written, where they are installed.
      fixed: settings that are no option.
    """
    return lambda f: Benchmark(f, quick or {}, lambda: versions(*packages), fixed)


def versions(*packages: str) -> dict[str, str]:
    """Of Python, of the packages that are installed, and the device where there is JAX."""
    known = {p: importlib.metadata.version(p) for p in packages if importlib.util.find_spec(p.replace("-", "_"))}
    about = known | {"python": platform.python_version()}
    if "jax" not in packages:
        return about
    import jax

    return about | {"device": str(jax.devices()[0])}


def alternate(functions: dict[str, Callable[[], Any]], repeats: int = 15) -> dict[str, float]:
    """Median seconds of each function; compiled first, then run in turn."""
    import jax

    for f in functions.values():
        jax.block_until_ready(f())
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, f in functions.items():
            begin = time.perf_counter()
            jax.block_until_ready(f())
            times[name].append(time.perf_counter() - begin)
    return {name: float(np.median(t)) for name, t in times.items()}


def written(row: Row) -> dict[str, Any]:
    """The row as JSON has it."""

    def fields(measure: Any) -> dict[str, Any]:
        if isinstance(measure, Measure):
            measure = measure._asdict()
        if not isinstance(measure, dict):
            measure = {"value": measure}
        return {k: finite(v) for k, v in measure.items() if k == "value" or v is not None}

    measures = {name: fields(m) for name, m in row.measures.items()}
    return {"case": dict(row.case), "measures": measures, "cost": dict(row.cost)}


def finite(x: Any) -> Any:
    """A number for JSON, which has none for what was not measured."""
    x = x if x is None or isinstance(x, str) else np.asarray(x).item()
    return None if isinstance(x, float) and not np.isfinite(x) else x


def write(path: Path, name: str, about: dict[str, Any], settings: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Write a result."""
    result = {"benchmark": name, "about": about, "settings": settings, "rows": rows}
    path.write_text(json.dumps(result, indent=1) + "\n")


def read(path: Path) -> dict[str, Any]:
    """A result; {} if there is none."""
    return json.loads(path.read_text()) if path.exists() else {}


def run(name: str, found: Benchmark, arguments: list[str]) -> None:
    """The command of a benchmark: measure, print and write row by row."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {name}",
        description=inspect.getdoc(found.f),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="tries the machinery, not what it measures")
    parser.add_argument("--out", type=Path, help=f"JSON file ({name}.json)")
    parameters = {n: p for n, p in inspect.signature(found.f).parameters.items() if n != "known"}
    for option, parameter in parameters.items():
        add_option(parser, option, parameter, get_type_hints(found.f)[option])
    given = vars(parser.parse_args(arguments))
    quick, out = given.pop("quick"), given.pop("out")
    out = out or Path(f"{name}_quick.json" if quick else f"{name}.json")
    defaults = {n: p.default for n, p in parameters.items()} | (found.quick if quick else {})
    options = {n: defaults[n] if v is None else v for n, v in given.items()}
    settings = {n: v for n, v in options.items() if v is not None and not isinstance(v, Path)} | found.fixed
    settings = json.loads(json.dumps(settings))
    old, more = read(out), {}
    if "known" in inspect.signature(found.f).parameters:
        more = {"known": old["rows"] if old.get("settings") == settings else []}
    rows = {json.dumps(row["case"]): row for row in more.get("known", [])}
    for row in found.f(**options, **more):
        line = written(row)
        rows[json.dumps(line["case"])] = line
        print(show(line), flush=True)
        write(out, name, found.about(), settings, list(rows.values()))


def add_option(parser: argparse.ArgumentParser, name: str, parameter: inspect.Parameter, hint: Any) -> None:
    """The option of a setting, by its annotation: a number, a text, a path, several of them, or a flag."""
    kinds = [k for k in typing.get_args(hint) if k is not type(None)] if typing.get_origin(hint) is not tuple else []
    hint = kinds[0] if kinds else hint
    several = typing.get_origin(hint) is tuple
    kind = typing.get_args(hint)[0] if several else hint
    flag = f"--{name.replace('_', '-')}"
    required = parameter.default is inspect.Parameter.empty
    if kind is bool:
        parser.add_argument(flag, action="store_true", default=None)
    else:
        parser.add_argument(flag, type=kind, nargs="*" if several else None, required=required)


def show(row: dict[str, Any]) -> str:
    """A row for the terminal."""

    def number(x: Any) -> str:
        return f"{x:.4g}" if isinstance(x, float) else str(x)

    def told(measure: dict[str, Any]) -> str:
        error = f" ± {measure['error']:.2g}" if "error" in measure else ""
        return f"{number(measure['value'])}{error}{' ' + measure['unit'] if 'unit' in measure else ''}"

    case = ", ".join(str(v) if isinstance(v, str) else f"{k} {number(v)}" for k, v in row["case"].items())
    found = "; ".join(f"{name} {told(m)}" for name, m in row["measures"].items())
    cost = ", ".join(f"{k} {number(v)}" for k, v in row["cost"].items() if not isinstance(v, str))
    return f"{case}: {found}{f'  ({cost})' if cost else ''}"
