"""`guidance-jax methods`: list the methods and parts in the table of methods."""

import inspect
import sys
from typing import Annotated

import typer

from guidance_jax.app import parts, settings
from guidance_jax.app.terminal import console
from guidance_jax.core import Refused
from guidance_jax.methods import OPERATORS, PARTS, SCALES, SOLVERS, Row
from guidance_jax.schedules import GRIDS


def methods(
    name: Annotated[
        str | None, typer.Argument(help="Name of a method or part; prints its whole documentation.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Name of a released model; prints its published settings.")] = None,
) -> None:
    """List every guidance method with its options, and the solvers, scales, operators and grids."""
    if model is not None:
        if name is not None:
            raise Refused(f"give a method or --model, not both: got {name} and --model {model}")
        for setting in settings.find(model):
            model, *about = (text for text in setting if text)
            console.print(model, style="cyan", highlight=False, markup=False)
            console.print(*(f"  {text}" for text in about), sep="\n", highlight=False, markup=False)
        return
    if name is not None:
        row = parts.find(name, PARTS, "method or part")
        console.print(f"{row.name}({parts.options(row, every=True)})\n", highlight=False, markup=False)
        # the module's docstring has the formula
        for text in (inspect.getdoc(row.cls), sys.modules[row.cls.__module__].__doc__):
            console.print(f"{(text or '').strip()}\n", highlight=False, markup=False)
        return
    groups: dict[str, list[Row]] = {}
    for row in (*parts.METHODS.values(), *SOLVERS.values(), *SCALES.values(), *OPERATORS.values()):
        groups.setdefault(row.family, []).append(row)
    for title, rows in groups.items():
        console.print(f"\n[bold]{title}[/bold]")
        for row in rows:
            console.print(f"  {row.name}", style="cyan", end="", highlight=False)
            console.print(f"  {parts.summary(row.cls)}", highlight=False, markup=False)
            if options := parts.options(row):
                console.print(f"      {options}", style="dim", highlight=False, markup=False)
    console.print(f"\n[bold]grids[/bold]\n  {', '.join(GRIDS)}")
    console.print("\n--method none samples the model as it is; --set OPTION=VALUE sets an option.", markup=False)
    console.print(
        "Options [in brackets] have no default in the library; the command line uses that number.", markup=False
    )
