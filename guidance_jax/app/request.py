"""What `guidance-jax sample` and `compare` are asked for: checkpoints, a method with its options, a solver, a grid."""

import dataclasses
import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from guidance_jax.app.models import about, is_pipeline
from guidance_jax.app.parts import parsed
from guidance_jax.core import Level, Refused
from guidance_jax.schedules import DDPM as Betas
from guidance_jax.schedules import VE, Schedule, grid
from guidance_jax.text.sequence import positions

NONE = "none"  # the method that does not guide


def type_named(dtype: str | None) -> str | None:
    """A floating type that networks compute in."""
    if dtype not in (None, "float32", "bfloat16", "float16"):
        raise Refused(f"--dtype is float32, bfloat16 or float16, got {dtype!r}")
    return None if dtype == "float32" else dtype


@dataclasses.dataclass(frozen=True)
class Request:
    """Everything that decides the samples of a folder with `denoiser` and, if need be, `classifier`.

    Attributes:
      models: the folder.
      method: a table with the method's name and options; the name "none" samples the model as it is. Empty
        for the usual one: CFG of a model of latents, else Classifier.
      solver: the same of a solver; None for the method's usual one.
      grid: a grid of `schedules` with its options; None for the model's usual one.
      measurement: of an inverse problem, {"operator": table, "std": number, "observed": file}; None without.
      scale: what every `scale` is that no table gives.
      clip: the radius of the clean estimate, for images; None for no clipping, "usual" for 1 of pictures and what a
        model of latents says of itself.
      labels: the classes asked for in turn, by number or name, none for all; `Compose` asks for all at once.
      prompts: the captions asked for in turn, of a model of captions.
      negative: the caption in the place of the null condition.
      size: of the pictures of a model of captions, "512x768" (height, width); None for its own.
      steps: a number, or OpenAI's respacing such as "ddim25" for their schedules.
      particles: of a population, for particle methods.
      seed: of the keys.
      dtype: in which networks compute, for example "bfloat16"; None for float32.
    """

    models: str
    method: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    solver: Mapping[str, Any] | None = None
    grid: Mapping[str, Any] | None = None
    measurement: Mapping[str, Any] | None = None
    scale: float = 2.0
    clip: float | None | str = "usual"
    labels: tuple[int | str, ...] = ()
    prompts: tuple[str, ...] = ()
    negative: str = ""
    size: str | None = None
    steps: str = "50"
    particles: int = 8
    seed: int = 0
    dtype: str | None = None

    def __post_init__(self):
        if not np.isfinite(self.scale):
            raise Refused(f"--scale is a finite number, got {self.scale}; write --scale 2")
        type_named(self.dtype)
        if not self.method:
            object.__setattr__(self, "method", usual_method(self.models))

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> "Request":
        """From a configuration file.

        Raises:
          Refused: a key that is none of a request's; the nearest is offered, and all are listed.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        for key in table:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {near[0]}? " if near else ""
                raise Refused(f"a configuration has no key {key!r}; {hint}its keys are {', '.join(known)}")
        values = dict(table)
        for key in ("labels", "prompts"):
            if key in values:
                found = values[key]
                values[key] = tuple(found) if isinstance(found, list | tuple) else (found,)
        if "steps" in values:
            values["steps"] = str(values["steps"])
        for key in ("method", "solver", "grid"):
            if isinstance(values.get(key), str):
                values[key] = {"name": values[key]}
        return cls(**values)

    def sides(self) -> tuple[int, int] | None:
        """Height and width that are asked for.

        Raises:
          Refused: something else than two numbers.
        """
        if self.size is None:
            return None
        parts = self.size.lower().split("x")
        if len(parts) != 2 or not all(part.isdigit() for part in parts):
            raise Refused(f"--size is height x width, such as 512x768, got {self.size!r}")
        return int(parts[0]), int(parts[1])

    def about(self) -> dict[str, Any]:
        """The request and the model's configuration: for manifests and protocols."""
        return vars(self) | {"configuration": about(self.models)}

    def levels(self, schedule: Schedule | None, shape: tuple[int, ...], own: Mapping[str, Any] | None = None) -> Level:
        """The levels of `steps` on the model's schedule: its `own` grid, or EDM's where noise is unbounded (`VE`).

        Raises:
          Refused: a respacing for a continuous schedule, an unknown grid or option of one.
        """
        if schedule is None:
            return positions(*shape)
        table = self.grid or own or {"name": "karras" if isinstance(schedule, VE) else "uniform"}
        if isinstance(schedule, Betas) and not self.steps.isdigit():
            return schedule.levels(self.steps)
        if not self.steps.isdigit() or int(self.steps) < 1:
            raise Refused(f"--steps is a number for a model on {schedule}, got {self.steps!r}; write --steps 50")
        return grid(schedule, int(self.steps), table)


def usual_method(models: str) -> dict[str, Any]:
    """How models are guided unless somebody says."""
    return {"name": "CFG" if is_pipeline(models) else "Classifier"}


def read_config_file(path: Path) -> dict[str, Any]:
    """A TOML file.

    Raises:
      Refused: a missing file, or one that is no TOML (the place is named).
    """
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise Refused(f"cannot read {path} ({error.strerror})") from None
    except tomllib.TOMLDecodeError as error:
        raise Refused(f"{path} is no TOML ({error})") from None


def requested(
    models: Path | None,
    config: Path | None,
    method: str | None,
    assignments: list[str] | None,
    **flags: Any,
) -> Request:
    """A request from a configuration file, over which flags go."""
    table = {} if config is None else read_config_file(config)
    given = flags | {"models": None if models is None else str(models)}
    table |= {k: v for k, v in given.items() if v is not None}
    if "models" not in table:
        raise Refused("which models? write --models FOLDER, or models = ... in the configuration file")
    own = parsed(assignments or [])
    if method is not None:
        table["method"] = {"name": method}
    if isinstance(table.get("method"), str):
        table["method"] = {"name": table["method"]}
    for part in ("solver", "grid", "measurement"):
        if isinstance(given := own.pop(part, None), dict):
            before = table.get(part)
            table[part] = {**({"name": before} if isinstance(before, str) else before or {}), **given}
        elif given is not None:
            table[part] = given
    if "clip" in own:
        table["clip"] = own.pop("clip")
    if own:
        table["method"] = {**(table.get("method") or usual_method(table["models"])), **own}
    asked, scale = table.get("method"), flags.get("scale")
    if scale is not None and isinstance(asked, dict) and "scale" in asked:
        inside = asked["scale"]  # a flag goes over a file, and into a part that has a scale of its own
        table["method"] = {**asked, "scale": {**inside, "scale": scale} if isinstance(inside, dict) else scale}
    if table.get("clip") in (0, "none", False):
        table["clip"] = None
    if isinstance(labels := table.get("labels"), str):
        table["labels"] = tuple(part.strip() for part in labels.split(","))
    return Request.of(table)
