"""Requests of `guidance-jax sample` and `compare`: checkpoints, a method with its options, a solver, a grid."""

import dataclasses
import inspect
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guidance_jax.app.models import about, is_guided
from guidance_jax.app.parts import parse
from guidance_jax.app.schema import GRID, PICTURE, REQUEST, check, show
from guidance_jax.core import Level, Refused
from guidance_jax.schedules import GRIDS, VE, Betas, Schedule, grid
from guidance_jax.text.sequence import positions
from guidance_jax.untrusted import JSON_BYTES, file_at, reading
from guidance_jax.zoo.load import is_pipeline

NONE = "none"  # the name of sampling without guidance


@dataclasses.dataclass(frozen=True)
class Request:
    """Hold every setting that determines the samples, from a folder with `denoiser` and for some methods `classifier`.

    Attributes:
      models: the folder.
      method: a table with the method's name and options; the name "none" samples without guidance. An empty table
        stands for the usual method: CFG for pipelines, Learned for FLUX.1-dev, else Classifier.
      solver: a table with the solver's name and options; None for the method's usual solver.
      grid: a table with the name and options of a grid of `schedules`; None for the model's usual grid.
      measurement: of an inverse problem, {"operator": table, "std": number, "observed": file}; None for none.
      scale: the value of every option `scale` that no table sets.
      clip: the largest |x0| of the clean estimate, for images; None for no clipping. "usual" is the model's own: 1 for
        pictures.
      labels: classes by number or name; samples take them in turn, empty for all. `Compose` takes all at once.
      prompts: captions; samples take them in turn. Only for text-to-image models.
      negative: the caption of the null condition.
      weighted: whether words of captions may have weights.
      chunks: how many chunks of 75 tokens of a caption are read.
      size: the size of the pictures of a text-to-image model, "512x768" (height, width); None for its own.
      lora: adapters for a folder of diffusers, each "FILE" or "FILE=0.8".
      control: the folder of a ControlNet; None for none.
      hint: the picture that the ControlNet follows.
      start: a picture to edit; None starts from noise.
      strength: the share of the steps that an edit takes, up to 1; None for 0.6.
      mask: a picture beside `start`: only its white part is drawn anew. None draws everything anew.
      steps: the number of steps, or a respacing such as "ddim25" for OpenAI's schedules.
      particles: the size of a population, for particle methods.
      seed: the seed of the keys.
      dtype: the type in which networks compute, for example "bfloat16"; None for float32.
      given: the names of the settings that a flag or a file gave; those that the method does not use are refused.

    Raises:
      Refused: a value of another kind than in `schema.REQUEST`, or out of its bounds.
    """

    models: str
    method: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    solver: Mapping[str, Any] | None = None
    grid: Mapping[str, Any] | None = None
    measurement: Mapping[str, Any] | None = None
    scale: float = 2.0
    clip: float | str | None = "usual"
    labels: tuple[int | str, ...] = ()
    prompts: tuple[str, ...] = ()
    negative: str = ""
    weighted: bool = False
    chunks: int = 1
    size: str | None = None
    lora: tuple[str, ...] = ()
    control: str | None = None
    hint: str | None = None
    start: str | None = None
    strength: float | None = None
    mask: str | None = None
    steps: str = "50"
    particles: int = 8
    seed: int = 0
    dtype: str | None = None
    given: frozenset[str] = frozenset()

    def __post_init__(self):
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        own = {k: v for k, v in vars(self).items() if k in REQUEST and v is not defaults[k] and v != () and v != {}}
        for name, value in check(REQUEST, {k: v for k, v in own.items() if v is not None}).items():
            object.__setattr__(self, name, value)
        if self.dtype == "float32":
            object.__setattr__(self, "dtype", None)
        if not self.method:
            asked = "scale" in self.given or self.scale != defaults["scale"]
            object.__setattr__(self, "method", usual_method(self.models, asked))

    def sides(self) -> tuple[int, int] | None:
        """Return the requested (height, width); None for the model's own."""
        if self.size is None:
            return None
        match = PICTURE.fullmatch(self.size)
        return None if match is None else (int(match[1]), int(match[2]))

    def about(self) -> dict[str, Any]:
        """Return the request and the model's configuration, for manifests and protocols."""
        return {k: v for k, v in vars(self).items() if k != "given"} | {"configuration": about(self.models)}

    def levels(self, schedule: Schedule | None, shape: tuple[int, ...], own: Mapping[str, Any] | None = None) -> Level:
        """Return the levels of `steps` on the model's schedule, by the requested grid or else the model's `own`.

        Without either, the grid is EDM's for `VE` and uniform for others. Without a schedule, levels are positions.

        Raises:
          Refused: a respacing for a continuous schedule, an unknown grid, or an option that the grid does not have.
        """
        if schedule is None:
            return positions(*shape)
        table = own or {"name": "karras" if isinstance(schedule, VE) else "uniform"}
        if self.grid is not None:
            table = grid_of(self.grid, schedule)
        if isinstance(schedule, Betas) and not self.steps.isdigit():
            return schedule.levels(self.steps)
        if not self.steps.isdigit():
            raise Refused(f"--steps must be a number for a model on {schedule}, got {self.steps!r}; write --steps 50")
        return grid(schedule, int(self.steps), table)


def grid_of(table: Mapping[str, Any], schedule: Schedule) -> dict[str, Any]:
    """Check the table of a requested grid, and return its name and options.

    Raises:
      Refused: an unknown name, an option that this grid does not have, or a value out of bounds.
    """
    name = table.get("name", "uniform")
    if name not in GRIDS:
        raise Refused(f"there is no grid called {show(name)}; known are {', '.join(GRIDS)}")
    own = schedule.levels if name == "uniform" else GRIDS[name]
    known = [k for k in inspect.signature(own).parameters if k not in ("schedule", "steps")]
    options = {k: v for k, v in table.items() if k != "name"}
    for key in options:
        if key not in known:
            raise Refused(f"the grid {name} has no options {show(key)[1:-1]}; its options are {', '.join(known)}")
    options = check(GRID, options, "grid.")
    if options.get("start", 0.0) > schedule.start:
        raise Refused(
            f"grid.start must be at most {schedule.start:g}, where {schedule} starts, got {options['start']:g}"
        )
    return {"name": name, **options}


def usual_method(models: str, scaled: bool = False) -> dict[str, Any]:
    """Return the table of the default method: Classifier, CFG for pipelines, Learned for FLUX.1-dev.

    Args:
      models: the folder.
      scaled: whether a scale was requested; if not, Learned has the scale of FLUX's authors, 3.5.
    """
    if not is_pipeline(models):
        return {"name": "Classifier"}
    if is_guided(models):
        return {"name": "Learned"} | ({} if scaled else {"scale": 3.5})
    return {"name": "CFG"}


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file of at most four megabytes.

    Raises:
      Refused: no such file, a larger one, or one that is no TOML; the message names the place of the error.
    """
    if (size := file_at(path).stat().st_size) > JSON_BYTES:
        raise Refused(
            f"{path} has {size:,} bytes, at most {JSON_BYTES:,} are accepted; check that it is the right file"
        )
    with reading(path, "correct that place"):
        return tomllib.loads(path.read_text("utf-8"))


def read_request(
    models: Path | None,
    config: Path | None,
    method: str | None,
    assignments: list[str] | None,
    **flags: Any,
) -> Request:
    """Return the request that a configuration file and flags make together; flags have precedence.

    Raises:
      Refused: a setting that `schema.REQUEST` does not have, or a wrong value, in the file or in a flag.
    """
    table = {} if config is None else check(REQUEST, read_toml(config), f"{config}: ")
    named = flags | {"models": None if models is None else str(models), "method": method}
    given = check(REQUEST, {k: v for k, v in named.items() if v is not None})
    table |= given
    if "models" not in table:
        raise Refused("no models were given; write --models FOLDER, or models = ... in the configuration file")
    own = parse(assignments or [])
    for name in ("solver", "grid", "measurement", "clip"):
        if name in own:
            value = own.pop(name)
            merged = {**(table.get(name) or {}), **value} if isinstance(value, dict) else value
            table |= check(REQUEST, {name: merged}, "--set ")
    if own:
        table["method"] = {**(table.get("method") or usual_method(table["models"], "scale" in table)), **own}
    asked, names = table.get("method"), set(table)
    if "scale" in given and asked and "scale" in asked:
        inside = asked["scale"]  # a flag has precedence over a file, also inside a part with its own scale
        scale = given["scale"]
        table["method"] = {**asked, "scale": {**inside, "scale": scale} if isinstance(inside, dict) else scale}
        names.discard("scale")
    return Request(**table, given=frozenset(names))
