"""What `guidance-jax sample` and `compare` are asked for: checkpoints, a method with its options, a solver, a grid."""

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

NONE = "none"  # the method that does not guide


@dataclasses.dataclass(frozen=True)
class Request:
    """Everything that decides the samples of a folder with `denoiser` and, if need be, `classifier`.

    Attributes:
      models: the folder.
      method: a table with the method's name and options; the name "none" samples the model as it is. Empty
        for the usual one: CFG of a model of latents, Learned of FLUX.1-dev, else Classifier.
      solver: the same of a solver; None for the method's usual one.
      grid: a grid of `schedules` with its options; None for the model's usual one.
      measurement: of an inverse problem, {"operator": table, "std": number, "observed": file}; None without.
      scale: what every `scale` is that no table gives.
      clip: the radius of the clean estimate, for images; None for no clipping, "usual" for 1 of pictures and what a
        model of latents says of itself.
      labels: the classes asked for in turn, by number or name, none for all; `Compose` asks for all at once.
      prompts: the captions asked for in turn, of a model of captions.
      negative: the caption in the place of the null condition.
      weighted: whether words of captions may have weights.
      chunks: of 75 tokens that are read of a caption.
      size: of the pictures of a model of captions, "512x768" (height, width); None for its own.
      lora: adapters of a folder of diffusers, each "FILE" or "FILE=0.8".
      control, hint: the folder of a ControlNet, and the picture that it follows.
      start, strength, mask: a picture that is edited, the share of the steps that does it, and where (white) it may.
      steps: a number, or OpenAI's respacing such as "ddim25" for their schedules.
      particles: of a population, for particle methods.
      seed: of the keys.
      dtype: in which networks compute, for example "bfloat16"; None for float32.
      given: the names of what was asked for by a flag or in a file: what the method does not use is then refused.

    Raises:
      Refused: a value of another kind than `schema.REQUEST` says, or out of its bounds.
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
        """Height and width that are asked for."""
        if self.size is None:
            return None
        match = PICTURE.fullmatch(self.size)
        return None if match is None else (int(match[1]), int(match[2]))

    def about(self) -> dict[str, Any]:
        """The request and the model's configuration: for manifests and protocols."""
        return {k: v for k, v in vars(self).items() if k != "given"} | {"configuration": about(self.models)}

    def levels(self, schedule: Schedule | None, shape: tuple[int, ...], own: Mapping[str, Any] | None = None) -> Level:
        """The levels of `steps` on the model's schedule: its `own` grid, or EDM's where noise is unbounded (`VE`).

        Raises:
          Refused: a respacing for a continuous schedule, an unknown grid or option of one.
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
    """A grid that was asked for.

    Raises:
      Refused: a name that is none, an option that the grid of that name does not have, a value that no grid can take.
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
    """How models are guided unless somebody says: FLUX.1-dev by what it has learned.

    Args:
      models: the folder.
      scaled: whether a scale was asked for; else that of FLUX's authors is taken.
    """
    if not is_pipeline(models):
        return {"name": "Classifier"}
    if is_guided(models):
        return {"name": "Learned"} | ({} if scaled else {"scale": 3.5})
    return {"name": "CFG"}


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file of at most four megabytes.

    Raises:
      Refused: no such file, a larger one, or one that is no TOML; the place is named.
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
    """A request from a configuration file, over which flags go.

    Raises:
      Refused: what `schema.REQUEST` does not know or takes for wrong, wherever it was written.
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
        inside = asked["scale"]  # a flag goes over a file, and into a part that has a scale of its own
        scale = given["scale"]
        table["method"] = {**asked, "scale": {**inside, "scale": scale} if isinstance(inside, dict) else scale}
        names.discard("scale")
    return Request(**table, given=frozenset(names))
