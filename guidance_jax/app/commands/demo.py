"""`guidance-jax demo`: guided pictures in a minute."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from guidance_jax.app.demo import WAYS, cells
from guidance_jax.app.demo import demo as run_demo
from guidance_jax.app.recipe import PRESETS
from guidance_jax.app.schema import COUNTS, STEPS
from guidance_jax.app.terminal import console


def demo(
    out: Annotated[Path, typer.Option(help="Folder for pictures, a page, results and models.")] = Path(
        "guidance_jax_demo"
    ),
    samples: Annotated[int, typer.Option(min=2, max=COUNTS, help="Samples per method and scale.")] = 40,
    steps: Annotated[int, typer.Option(min=2, max=STEPS, help="Solver steps.")] = 15,
    train: Annotated[bool, typer.Option("--train", help="Train on handwritten digits first, from scratch.")] = False,
    quick: Annotated[bool, typer.Option(help="With --train: a few steps only, to test that training runs.")] = False,
) -> None:
    """Guide a small model of Fashion-MNIST that ships with the package in three ways, and measure what changes.

    The demo takes about a minute on two CPU cores. OUT/index.html shows all pictures and measures.
    """
    out.mkdir(parents=True, exist_ok=True)
    begin, ways = time.perf_counter(), list[str]()
    recipe = PRESETS["quick" if quick else "small"] if train or quick else None
    columns = ("way", "scale", "accuracy", "diversity", "Frechet", "precision", "recall", "s")
    table = Table(*columns, title="Guided pictures, judged by an independent classifier")
    for row in run_demo(out, recipe=recipe, samples=samples, steps=steps):
        table.add_row(row.algorithm, f"{row.scale:g}", *cells(row.report), f"{row.seconds:.1f}")
        if row.algorithm not in ways:
            if ways:  # the picture of the way before is complete
                console.print(f"{time.perf_counter() - begin:.0f} s: {out}/{ways[-1]}.png", soft_wrap=True)
            ways.append(row.algorithm)
    console.print(table)
    for way, what in WAYS.items():
        console.print(f"{way}: {what}: {out}/{way}.png", highlight=False, soft_wrap=True)
    console.print("Scale 0 is the unconditional model, 1 the conditional one. ± is a bootstrap standard error.")
    console.print(f"{time.perf_counter() - begin:.0f} s; everything on one page: {out}/index.html", soft_wrap=True)
    console.print(f"Next: guidance-jax sample --models {out}/models --label 7 --method CFG --scale 3 --out samples.npz")
