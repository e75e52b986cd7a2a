"""`guidance-jax compare`: draw and measure the same seeds with several methods."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from guidance_jax.app import parts
from guidance_jax.app.compare import check_any, compare_all, every_method, half_measurement, inverse, track, write
from guidance_jax.app.data import classes_of, load_judge
from guidance_jax.app.options import (
    Config,
    Grid,
    Labels,
    Models,
    Negative,
    OtherData,
    OtherSize,
    Particles,
    Prompt,
    Seed,
    Set,
    Solving,
    Steps,
    Type,
)
from guidance_jax.app.request import NONE, read_request
from guidance_jax.app.schema import REQUEST, SAMPLES, check, flag_of, show
from guidance_jax.app.terminal import COLUMNS, console, short
from guidance_jax.core import Refused
from guidance_jax.files import check_writable

SETTINGS = ("solver", "grid", "measurement", "clip")


def compare(
    out: Annotated[Path, typer.Option(help="Folder for comparison.png, comparison.json, trade_off.png.")],
    models: Models = None,
    method: Annotated[
        list[str] | None, typer.Option(help="A name, or name:option=value,option=value; may be repeated. (all)")
    ] = None,
    scales: Annotated[
        str | None, typer.Option(help="Numbers separated by commas; each method runs at each. (2)")
    ] = None,
    n: Annotated[int, typer.Option("--n", min=2, max=SAMPLES, help="Samples per method and scale.")] = 100,
    config: Config = None,
    set_: Set = None,
    label: Labels = None,
    prompt: Prompt = None,
    negative: Negative = None,
    solver: Solving = None,
    grid: Grid = None,
    steps: Steps = None,
    particles: Particles = None,
    seed: Seed = None,
    dtype: Type = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples drawn at a time.")] = 250,
    data: OtherData = None,
    size: OtherSize = None,
) -> None:
    """Draw the same seeds with several methods: one labelled picture, a table, the trade-off curve.

    If the folder has a judge (guidance-jax train makes one), samples are measured against held-out data. Methods of
    inverse problems get a measurement of held-out images, Downsample by 2, or every other row for those that need a
    mask. To set another one, write --set measurement.operator.name=Downsample ...
    """
    check_writable(out / "comparison.json")
    entries = []
    flags: dict[str, Any] = dict(labels=label, solver=solver, grid=grid, steps=steps, particles=particles, seed=seed)
    flags |= dict(prompts=prompt or None, negative=negative, dtype=dtype)
    for text in set_ or []:
        if text.partition("=")[0].split(".")[0].strip() not in SETTINGS:
            raise Refused(
                f"--set of compare takes only {', '.join(SETTINGS)}, got {show(text)}; for a method's option write "
                "--method NAME:option=2"
            )
    wanted = []
    base = read_request(models, config, None, set_, **flags)
    numbers = [base.scale] if scales is None else [number(part) for part in scales.split(",")]
    names = [(name, own) for name, _, own in (text.partition(":") for text in method or [])]
    for name, _ in names:
        if name != NONE:
            parts.find(name, parts.METHODS, "method")
    measure, held_out = load_judge(Path(base.models), data, size)
    for name, own in names or [(name, "") for name in every_method(base.models, base.dtype)]:
        assignments = [*(a for a in own.split(",") if a), *(set_ or [])]
        for scale in numbers if name != NONE else numbers[:1]:
            one = read_request(models, config, name, assignments, **flags, scale=scale)
            if one.measurement is None and base.measurement is None and held_out is not None and inverse(name):
                one = dataclasses.replace(
                    one, measurement=half_measurement(name, held_out.images[np.arange(n) % len(held_out)])
                )
            wanted.append(one)
    check_any(wanted, n)
    table = Table("method", "scale", *COLUMNS, "s", title=f"{n} samples each, the same seeds")
    for entry in track(compare_all(wanted, n, measure, batch), len(wanted)):
        entries.append(entry)
        if entry.refused is None:
            values = short(entry.report) if entry.report else ["-"] * (len(COLUMNS) - 1)
            table.add_row(entry.name, f"{entry.scale:g}", *values, str(entry.not_finite), f"{entry.seconds:.1f}")
    drawn = [entry for entry in entries if entry.refused is None]
    if not drawn:
        raise Refused(f"none of {len(entries)} could be drawn; {entries[0].name}: {entries[0].refused}")
    files = write(out, entries, min(n, 20), {"models": base.models, "n": n}, classes_of(base.models))
    console.print(table)
    for entry in entries:
        if entry.refused is not None:
            console.print(f"{entry.name} {entry.scale:g} refused: {entry.refused}", markup=False, soft_wrap=True)
    for name in sorted(set.intersection(*(set(entry.unused) for entry in drawn)) - {"scale"}):
        console.print(f"--{flag_of(name, REQUEST[name])} had no effect: none of these methods uses it with this model")
    console.print(f"{len(drawn)} of {len(entries)} drawn: {', '.join(map(str, files))}")


def number(text: str) -> float:
    """Read one of the numbers of --scales."""
    try:
        return check(REQUEST, {"scale": float(text)})["scale"]
    except ValueError:
        raise Refused(
            f"--scales takes finite numbers separated by commas, got {show(text)}; write --scales 1,2,4"
        ) from None
