"""The options that several commands share."""

from pathlib import Path
from typing import Annotated, Any

import typer

from guidance_jax.app.schema import REQUEST, SIDE, Settings, flag_of


def flag(name: str, settings: Settings = REQUEST) -> Any:
    """Return the command-line option of a setting; `schema.check` reads its value."""
    setting = settings[name]
    return typer.Option(f"--{flag_of(name, setting)}", help=setting.help)


Data = Annotated[str, typer.Option(help='"digits", a folder of IDX files, or a folder of images by class.')]
OtherData = Annotated[str | None, typer.Option(help="Held-out data; by default the data of the models.")]
OtherSize = Annotated[int | None, typer.Option(min=1, max=SIDE, help="Side that held-out images are resized to.")]
Size = Annotated[int | None, typer.Option(min=1, max=SIDE, help="Side that images of a folder are resized to. (32)")]
Config = Annotated[
    Path | None, typer.Option(help="TOML file: models, method, solver, grid, measurement, ... (flags override it).")
]
Models = Annotated[Path | None, flag("models")]
Clipped = Annotated[float | None, flag("clip")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="option=value of the method; solver.eta=1, scale.name=Window; may be repeated."),
]
Method = Annotated[str | None, flag("method")]
Scaled = Annotated[float | None, flag("scale")]
Solving = Annotated[str | None, flag("solver")]
Grid = Annotated[str | None, flag("grid")]
Steps = Annotated[str | None, flag("steps")]
Labels = Annotated[str | None, flag("labels")]
Prompt = Annotated[list[str] | None, flag("prompts")]
Negative = Annotated[str | None, flag("negative")]
Particles = Annotated[int | None, flag("particles")]
Type = Annotated[str | None, flag("dtype")]
Seed = Annotated[int | None, flag("seed")]
