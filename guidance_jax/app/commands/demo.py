"""`guidance-jax demo`: train on digits, guide in three ways, print the table."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from guidance_jax.app.demo import demo as run_demo
from guidance_jax.app.recipe import PRESETS
from guidance_jax.app.schema import COUNTS, STEPS
from guidance_jax.app.terminal import COLUMNS, cells, console


def demo(
    out: Annotated[Path, typer.Option(help="Folder for models, pictures and results.")] = Path("guidance_jax_demo"),
    samples: Annotated[int, typer.Option(min=2, max=COUNTS, help="Samples a line.")] = 150,
    steps: Annotated[int, typer.Option(min=2, max=STEPS, help="Solver steps.")] = 30,
    quick: Annotated[bool, typer.Option(help="A few training steps: tries the machinery, not the quality.")] = False,
) -> None:
    """Train on handwritten digits, guide in three ways at several scales, and print the table."""
    out.mkdir(parents=True, exist_ok=True)
    recipe = PRESETS["quick" if quick else "small"]
    table = Table("algorithm", "scale", *COLUMNS, "s", title="Guided digits, judged by an independent classifier")
    for row in run_demo(out, recipe=recipe, samples=samples, steps=steps):
        table.add_row(row.algorithm, f"{row.scale:g}", *cells(row.report), f"{row.seconds:.1f}")
    console.print(table)
    console.print("score, mean: classifier guidance (Algorithms 2 and 1 of Dhariwal & Nichol); cfg: classifier-free.")
    console.print(
        "Scale 0 is the unconditional model, 1 the conditional one. Frechet distance: judge's features, no FID."
    )
    console.print(f"Pictures: {out}/score.png, mean.png, cfg.png (a row per scale), trade_off.png; {out}/results.json")
