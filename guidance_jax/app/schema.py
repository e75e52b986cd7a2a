"""Every setting of a request or a training: its help, its kind of values and their bounds, in one place.

Flags and TOML files are checked by `check`; the help of the flags is here too. Checked values are safe for NumPy and
JAX: numbers are finite and fit their types, sizes are bounded, lists are regular, text has no control characters.
"""

import dataclasses
import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from guidance_jax.core import Refused

LARGEST = float(np.finfo(np.float32).max)
LABELS = 2**31 - 1  # the largest int32
SEEDS = 2**32 - 1  # JAX reads the lower 32 bits: a larger seed would equal a smaller one
STEPS = 100_000
SAMPLES = 10_000_000
COUNTS = 1_000_000
SIDE = 8192
TEXT = 10_000  # most characters of a text
DEPTH = 8  # most levels of tables inside tables
ENTRIES = 1_000_000  # most entries of a list
ENDLESS = ("radius", "hi")  # options for which infinity means "no limit"
RESPACING = re.compile(r"(ddim|fast)?[0-9]{1,9}|[0-9]{1,9}(,[0-9]{1,9})+", re.ASCII)
PICTURE = re.compile(r"([0-9]{1,9})[xX]([0-9]{1,9})", re.ASCII)


def show(value: Any) -> str:
    """Write a value from the user for a message, in at most about 80 characters."""
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, int) and abs(value) >= 10**40:
        return f"a number of {int(value.bit_length() * 0.30103) + 1} digits"
    text = repr(value) if isinstance(value, str | float | int | None) else type(value).__name__
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def is_text(value: Any) -> bool:
    """Return whether a value is a string without control characters or surrogates, and not too long."""
    return is_path(value) and not any("\ud800" <= c <= "\udfff" or (c < " " and c not in "\n\t") for c in value)


def is_path(value: Any) -> bool:
    """Return whether a value is a string that may name a file: names in other encodings contain surrogates."""
    return isinstance(value, str) and len(value) <= TEXT and "\0" not in value


@dataclasses.dataclass(frozen=True)
class Number:
    """Check that a value is a finite number within bounds, an integer if `whole`. True and false are no numbers."""

    least: int | float = -LARGEST
    most: int | float = LARGEST
    whole: bool = False

    def __str__(self):
        kind = "a whole number" if self.whole else "a finite number"
        if (self.least, self.most) == (-LARGEST, LARGEST):
            return kind
        return f"{kind} from {self.least} on" if self.most == LARGEST else f"{kind} from {self.least} to {self.most}"

    def __call__(self, value: Any) -> Any:
        kinds = int | np.integer if self.whole else int | float | np.number
        if isinstance(value, bool | np.bool_ | complex) or not isinstance(value, kinds):
            raise ValueError
        if not self.least <= value <= self.most:
            raise ValueError
        return value if self.whole else float(value)


@dataclasses.dataclass(frozen=True)
class OneOf:
    """Check that a value is one of `words`."""

    words: tuple[str, ...]

    def __str__(self):
        return f"{', '.join(self.words[:-1])} or {self.words[-1]}"

    def __call__(self, value: Any) -> Any:
        if not isinstance(value, str) or value not in self.words:
            raise ValueError
        return value


@dataclasses.dataclass(frozen=True)
class Read:
    """Read a value with the function `read`; `words` describe the expected value in messages."""

    words: str
    read: Callable[[Any], Any]

    def __str__(self):
        return self.words

    def __call__(self, value: Any) -> Any:
        return self.read(value)


def path(value: Any) -> str:
    if not is_path(value) or not value:
        raise ValueError
    return value


def text(value: Any) -> str:
    if not is_text(value) or not value:
        raise ValueError
    return value


def truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def caption(value: Any) -> str:
    if not is_text(value):
        raise ValueError
    return value


def several(value: Any, one: Callable[[Any], Any]) -> tuple:
    """Read a list, or a single entry as a list of one, of at most `ENTRIES` entries."""
    found = tuple(map(one, value if isinstance(value, list | tuple) else [value]))
    if len(found) > ENTRIES:
        raise ValueError
    return found


def labels(value: Any) -> tuple:
    """Read classes by number or name, from a list or from a string with commas."""

    def one(label):
        return text(label.strip()) if isinstance(label, str) else int(Number(0, LABELS, whole=True)(label))

    return several(value.split(",") if isinstance(value, str) else value, one)


def captions(value: Any) -> tuple:
    return several(value, caption)


def several_paths(value: Any) -> tuple:
    return several(value, path)


def respacing(value: Any) -> str:
    found = str(value) if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= STEPS else value
    if not isinstance(found, str) or not RESPACING.fullmatch(found):
        raise ValueError
    if not all(1 <= int(part) <= STEPS for part in re.sub("[a-z]", "", found).split(",")):
        raise ValueError
    return found


def sides(value: Any) -> str:
    match = PICTURE.fullmatch(value) if isinstance(value, str) else None
    if match is None or not all(1 <= int(side) <= SIDE for side in match.groups()):
        raise ValueError
    return value


def radius(value: Any) -> Any:
    """Read the radius of clipping; 0, "none" and false mean no clipping."""
    if value is None or value is False or value == "none":
        return None
    if isinstance(value, str) and value == "usual":
        return value
    return Number(0)(value) or None


def part(value: Any) -> dict[str, Any]:
    """Read a name, or a table with a name and options."""
    if isinstance(value, str):
        return {"name": text(value)}
    if not isinstance(value, Mapping) or not isinstance(value.get("name", ""), str):
        raise ValueError
    return {key: option(v, key) for key, v in value.items()}


def measurement(value: Any) -> dict[str, Any]:
    """Read a table of the settings in `MEASUREMENT`."""
    if not isinstance(value, Mapping):
        raise ValueError
    return check(MEASUREMENT, value, "measurement.")


def operator(value: Any) -> Any:
    """Read a part; pass on a Python object, which can come neither from a file nor from a flag."""
    return part(value) if isinstance(value, str | Mapping | list | tuple | int | float | None) else value


def check_observed(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value
    return path(value) if isinstance(value, str) else numbers(value, "measurement.observed")


def option(value: Any, path: str, depth: int = 0) -> Any:
    """Read the value of any option: a number, a word, a list of numbers, or a table of these.

    Raises:
      Refused: other values of TOML, at any depth; numbers that are not finite; lists of unequal lengths.
    """
    last = path.rpartition(".")[2]
    if isinstance(value, bool) or is_text(value):
        return value
    if isinstance(value, Mapping) and depth < DEPTH:
        return {key: option(v, f"{path}.{key}", depth + 1) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return numbers(value, path)
    if isinstance(value, int) and abs(value) <= LABELS:
        return value
    if isinstance(value, float) and (abs(value) <= LARGEST or (value == np.inf and last in ENDLESS)):
        return value
    if isinstance(value, str | int | float | Mapping) or value is None:
        raise Refused(f"{path} must be a finite number, a word, a list of numbers or a table, got {show(value)}")
    return value  # a Python object, which can come neither from a file nor from a flag


def numbers(value: Any, path: str) -> list:
    """Read a list of numbers, or of lists of numbers that all have one length."""
    try:
        found = np.asarray(value)
    except (ValueError, RecursionError, OverflowError):
        found = np.asarray(None)
    if found.dtype.kind not in "biuf" or not 0 < found.size <= ENTRIES or found.ndim > 4:
        raise Refused(
            f"{path} must be a list of numbers, or of lists of equal length, got {show(value)} with other content"
        )
    if not (np.abs(found.astype(float)) <= (LABELS if found.dtype.kind in "iu" else LARGEST)).all():
        raise Refused(f"{path} must be a list of finite numbers, got one that is not finite or too large")
    return found.tolist()


class Setting(NamedTuple):
    """One setting of a request or a training.

    Attributes:
      help: the help text of its flag.
      kind: kind(value) returns the checked value or raises `ValueError`; str(kind) describes the expected values.
      example: a valid value, for messages.
      flag: the flag of the command line; empty if it is the name of the setting.
    """

    help: str
    kind: Any
    example: str
    flag: str = ""


Settings = Mapping[str, Setting]

REQUEST: Settings = {
    "models": Setting(
        "Folder written by train or convert, or a diffusers folder; or models = ... in the file.",
        Read("a folder", path),
        "models",
    ),
    "method": Setting(
        "Name from `guidance-jax methods`, or none. (Classifier; CFG for latents, Learned for FLUX.1-dev)",
        Read("a name, or a table with a name", part),
        "CFG",
    ),
    "solver": Setting(
        "Name of a solver; by default the method's usual one.", Read("a name, or a table with a name", part), "DDIM"
    ),
    "grid": Setting(
        "A grid from `guidance-jax methods`. (the model's own, else uniform; karras for EDM)",
        Read("a name, or a table with a name", part),
        "karras",
    ),
    "measurement": Setting("", Read("a table of operator, std and observed", measurement), "{...}"),
    "scale": Setting("Strength; 0 unconditional, 1 conditional. (2; 3.5 for FLUX.1-dev)", Number(), "2"),
    "clip": Setting(
        "Largest |x0| of images; 0 does not clip. (1; none for latents)", Read("a number of 0 or more", radius), "1"
    ),
    "labels": Setting(
        "Classes by number or name, separated by commas; samples take them in turn. (all)",
        Read(f"numbers from 0 to {LABELS} or names of classes", labels),
        "3",
        "label",
    ),
    "prompts": Setting(
        "Caption, for a model of captions; may be repeated, samples take the captions in turn.",
        Read(f"captions of {TEXT} characters at most", captions),
        "a red cat",
        "prompt",
    ),
    "negative": Setting(
        "Caption that replaces the null condition. (empty)",
        Read(f"a caption of {TEXT} characters at most", caption),
        "blurry",
    ),
    "weighted": Setting('Captions may have weights, "a (red:1.3) cat".', Read("true or false", truth), "true"),
    "chunks": Setting(
        "Number of chunks of 75 tokens that CLIP reads from a long caption. (1)", Number(1, 32, whole=True), "2"
    ),
    "size": Setting(
        f"Height x width, such as 512x768, each at most {SIDE}, for a model of captions. (its own)",
        Read("height x width, such as 512x768", sides),
        "512x768",
    ),
    "lora": Setting(
        "Adapter (LoRA) for a diffusers folder, FILE or FILE=0.8; may be repeated.",
        Read("a file, optionally followed by = and a strength", several_paths),
        "style.safetensors=0.8",
    ),
    "control": Setting("Diffusers folder of a ControlNet.", Read("a folder", path), "controlnet"),
    "hint": Setting("Picture that a ControlNet follows.", Read("a picture", path), "edges.png"),
    "start": Setting(
        "Picture to edit; sampling starts from it instead of from noise.", Read("a picture", path), "cat.png"
    ),
    "strength": Setting("Share of the steps that an edit takes. (0.6)", Number(1e-3, 1), "0.6"),
    "mask": Setting("Mask for --start: white is drawn again, black is kept.", Read("a picture", path), "mask.png"),
    "steps": Setting(
        'A number, or OpenAI\'s respacing, such as "ddim25". (50)',
        Read(f'a number from 1 to {STEPS} or a respacing such as "ddim25"', respacing),
        "50",
    ),
    "particles": Setting("Size of a population, for particle methods. (8)", Number(2, 100_000, whole=True), "8"),
    "seed": Setting("Seed of the random keys. (0)", Number(0, SEEDS, whole=True), "0"),
    "dtype": Setting(
        "bfloat16: networks compute in it, guidance stays in float32.",
        OneOf(("float32", "bfloat16", "float16")),
        "bfloat16",
    ),
}

MEASUREMENT: Settings = {
    "operator": Setting("", Read("a table with a name", operator), "Downsample"),
    "std": Setting("", Number(0), "0.1"),
    "observed": Setting("", Read("an .npy file, a picture, or a list of numbers", check_observed), "y.npy"),
}

# options of grids, and of the method `levels` of schedules
GRID: Settings = {
    "lo": Setting("", Number(1e-6, 1e6), "0.002"),
    "hi": Setting("", Number(1e-6, 1e6), "80"),
    "rho": Setting("", Number(1, 100), "7"),
    "shift": Setting("", Number(1e-3, 1e3), "3"),
    "start": Setting("", Number(1e-6, 1e6), "1"),
    "terminal": Setting("", Number(1e-6, 1), "0.02"),
    "end": Setting("", Number(1e-6, 1), "0.003"),
    "a": Setting("", Number(1e-3, 1e3), "0.6"),
    "b": Setting("", Number(1e-3, 1e3), "0.6"),
    "model": Setting("", OneOf(("sd15", "sdxl", "svd")), "sd15"),
    "spacing": Setting("", OneOf(("leading", "trailing", "linspace")), "trailing"),
    "offset": Setting("", Number(0, COUNTS, whole=True), "1"),
    "clean": Setting("", Read("true or false", truth), "true"),
}

RECIPE: Settings = {
    "width": Setting("Channels of the diffusion model, a multiple of 8.", Number(8, SIDE, whole=True), "24"),
    "steps": Setting("Training steps of the diffusion model.", Number(1, LABELS, whole=True), "2000"),
    "classifier_steps": Setting("Training steps of the noisy classifier.", Number(1, LABELS, whole=True), "1200"),
    "judge_steps": Setting("Training steps of the judge.", Number(1, LABELS, whole=True), "500"),
    "batch": Setting("Images per step.", Number(1, COUNTS, whole=True), "64"),
    "rate": Setting("Peak learning rate of the diffusion model.", Number(1e-8, 100.0), "0.003"),
    "ema": Setting("Decay of the moving average of the weights.", Number(0.0, 0.999999), "0.995"),
    "label_dropout": Setting("Share of labels that are dropped.", Number(0.0, 1.0), "0.2"),
    "dtype": REQUEST["dtype"]._replace(help="bfloat16: networks compute in it, weights stay in float32."),
    "save_every": Setting("Steps between checkpoints and pictures.", Number(1, LABELS, whole=True), "500"),
    "seed": Setting("Seed of initialisation and batches.", Number(0, SEEDS, whole=True), "0"),
}


def flag_of(name: str, setting: Setting) -> str:
    """Return the flag of a setting without its leading dashes."""
    return setting.flag or name.replace("_", "-")


def check(settings: Settings, given: Mapping[str, Any], where: str = "--") -> dict[str, Any]:
    """Check the values of `given` against `settings`, and return them in the form that the program uses.

    Args:
      settings: the known settings, by name.
      given: name -> value.
      where: the beginning of a message, for example "ask.toml: "; "--" if the settings come from flags.

    Raises:
      Refused: an unknown name, or a value of another kind or out of bounds; the message says what to write.
    """
    found = {}
    for name, value in given.items():
        if name not in settings:
            near = difflib.get_close_matches(str(name)[:80], settings, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            a = "a measurement" if settings is MEASUREMENT else "a configuration"
            raise Refused(f"{a} has no key {show(name)}; {hint}its keys are {', '.join(settings)}")
        setting = settings[name]
        flags = where == "--"
        title = f"{where}{flag_of(name, setting) if flags else name}"
        try:
            found[name] = setting.kind(value)
        except Refused as error:
            raise Refused(f"{where if not flags else ''}{error}") from None
        except (ValueError, TypeError):
            quoted = setting.example if flags or setting.example[0].isdigit() else f'"{setting.example}"'
            write = f"{title} {quoted}" if flags else f"{name} = {quoted}"
            raise Refused(f"{title} must be {setting.kind}, got {show(value)}; write {write}") from None
    return found
