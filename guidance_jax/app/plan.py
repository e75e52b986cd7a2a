"""Turn a request into a `Plan`: build every part that its method needs from the checkpoints in the folder."""

import dataclasses
import difflib
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.app.data import classes_of
from guidance_jax.app.edits import STRENGTH, edit_from, last_steps, read_adapters, read_picture
from guidance_jax.app.models import load_models, load_once
from guidance_jax.app.parts import MEASURE, METHODS, Builder, find
from guidance_jax.app.request import NONE, Request
from guidance_jax.app.schema import LABELS, show
from guidance_jax.core import Guide, Kernel, KernelWrapper, Level, Move, Refused, Rows, first_line
from guidance_jax.datasets.arrays import read_array
from guidance_jax.discrete.ancestral import Ancestral
from guidance_jax.discrete.first_hitting import FirstHitting
from guidance_jax.discrete.network import HiddenNetwork, TokenModel
from guidance_jax.discrete.process import Absorbing
from guidance_jax.flows.flow import AutoregressiveFlow
from guidance_jax.flows.patches import patch_levels
from guidance_jax.flows.solvers import DrawPatch, PatchByPatch
from guidance_jax.guidance.clip import Clip
from guidance_jax.guidance.likelihoods import GaussianLikelihood
from guidance_jax.guidance.perturbed import perturb
from guidance_jax.guidance.scales import PerClass
from guidance_jax.inverse import DPS
from guidance_jax.kernels.descend import Descending
from guidance_jax.kernels.mean_shift import MeanShift
from guidance_jax.kernels.reverse import Reverse, Step
from guidance_jax.methods import GUIDES, OPERATORS, PART, PARTS, SOLVERS, Row, Source
from guidance_jax.models.adapters import Conditioned, Microbatched, Unconditional
from guidance_jax.models.network import Network
from guidance_jax.models.parameterizations import LearnedRange
from guidance_jax.operators import Mask
from guidance_jax.particles.populations import _populations, populations
from guidance_jax.sample import _generate, keys, prepare
from guidance_jax.schedules import RectifiedFlow
from guidance_jax.sharding import generate_on
from guidance_jax.solvers.ddim import DDIM
from guidance_jax.solvers.ddpm import DDPM, fixed_small, learned_range
from guidance_jax.text.language_model import LanguageModel
from guidance_jax.zoo.load import denoiser_in
from guidance_jax.zoo.pipeline import Pipeline
from guidance_jax.zoo.sequence_models import value_head
from guidance_jax.zoo.tarflow import decode_images


class Plan(NamedTuple):
    """Everything that sampling needs except the random keys.

    `cond` has one row per sample, or one row per caption; `rows` maps samples to captions. `unused` are the names of
    the given settings that change no sample of this method and model.
    """

    kernel: Any
    levels: Level
    shape: tuple[int, ...]
    cond: Any
    labels: np.ndarray
    particles: int
    pipeline: Pipeline | None = None
    rows: np.ndarray | None = None
    unused: tuple[str, ...] = ()
    flow: AutoregressiveFlow | None = None

    @property
    def images(self) -> bool:
        """Whether the samples can be shown as images."""
        return len(self.shape) == 3 or self.flow is not None

    def conditions(self, index: Any) -> Any:
        """Return the conditions of the samples `index`."""
        return take(self.cond, index if self.rows is None else self.rows[index])

    def pictures(self, samples: np.ndarray, tile: int | None = None) -> np.ndarray:
        """Decode latents to pictures, `tile` by `tile` latents at a time; return other samples unchanged."""
        return samples if self.pipeline is None else self.pipeline.decode(samples, tile)

    def draw(
        self, mesh: Any, keys: Any, index: Any, *, split: bool = False, batch: int | None = None, gather: bool = True
    ) -> np.ndarray:
        """Draw the samples `index` from their keys. Flows draw images; a population gives one particle, by weight.

        Without `gather` each process gets only its own part, as from `generate_on`.
        """
        drawn = self._draw(mesh, keys, index, split, batch, gather)
        if self.flow is None:
            return drawn
        labels = self.labels[index] if self.flow.domain is not None and self.flow.domain.num_classes else None
        return np.asarray(decode_images(self.flow, drawn, labels))

    def _draw(self, mesh: Any, keys: Any, index: Any, split: bool, batch: int | None, gather: bool) -> np.ndarray:
        cond = self.conditions(index)
        if not self.kernel.population:
            given = mesh, keys, self.kernel, self.levels, self.shape, cond
            return generate_on(*given, split=split, batch=batch, gather=gather)
        size = min(batch or len(index), len(index))
        parts = []
        for i in range(0, len(index), size):
            own = np.resize(np.arange(i, min(i + size, len(index))), size)  # fills up the last batch
            some = take(cond, own)
            found = populations(keys[own], self.kernel, self.levels, self.shape, self.particles, some)
            parts.append(np.asarray(one_of_each(keys[own], found.x, found.log_w))[: min(size, len(index) - i)])
        return np.concatenate(parts)


def plan(request: Request, n: int, *, remat: bool = False, microbatch: int | None = None) -> Plan:
    """Make the plan for `n` samples; `remat` and `microbatch` save memory and change no sample.

    Raises:
      Refused: checkpoints that are missing or do not fit together, or a request that they cannot honour.
    """
    found = Offer(request, remat, microbatch).plan(n)
    check_options(found, request, n)
    return found


NOISE = 0.1  # the default standard deviation of a measurement
# the errors of JAX and the library while a program is traced from parts that do not fit
MISFITS = (TypeError, ValueError, IndexError, KeyError, AttributeError, ArithmeticError)


def check_options(found: Plan, request: Request, n: int) -> None:
    """Raise `Refused` unless the parts fit each other, before anything is written.

    If the user gave options of parts, the program is also traced; it is not run.
    """
    leaves = jax.tree.leaves(found.kernel, is_leaf=lambda node: isinstance(node, Rows))
    size = n if any(isinstance(leaf, Rows) for leaf in leaves) else min(n, 2)
    own, cond = keys(request.seed, size), jax.tree.map(jnp.asarray, found.conditions(np.arange(size)))
    several = (found.particles,) if found.kernel.population else ()
    try:
        own, kernel, levels = prepare(own, found.kernel, found.levels, (*several, *found.shape), cond)
        if all(set(table or {}) <= {"name"} for table in (request.method, request.solver, request.measurement)):
            return
        if several:
            _populations.eval_shape(own, kernel, levels, found.shape, *several, cond)
        else:
            _generate.eval_shape(own, kernel, levels, found.shape, cond, None)
    except Refused:
        raise
    except MISFITS as error:
        name, reason = request.method["name"], first_line(error)
        raise Refused(
            f"the options of {name} do not fit ({reason}); run guidance-jax methods {name} to list them"
        ) from None


def take(tree: Any, index: Any) -> Any:
    """Return the rows `index` of every array."""
    return jax.tree.map(lambda a: a[index], tree)


@jax.jit
@jax.vmap
def one_of_each(key: Any, x: Any, log_w: Any) -> Any:
    """Draw one particle of a population, by weight."""
    return x[jax.random.categorical(jax.random.fold_in(key, 1), log_w)]


class Offer:
    """Build what a method can use from the checkpoints and settings of a request; record the settings it has used."""

    def __init__(self, request: Request, remat: bool = False, microbatch: int | None = None):
        self.request, self.remat, self.microbatch = request, remat, microbatch
        self.folder = Path(request.models)
        # settings that are refused below if the model cannot use them, and settings that every method uses
        self.used = {
            *("labels", "prompts", "size", "chunks", "lora", "control"),
            *("models", "method", "seed", "dtype"),
        }
        found: Any = load_models(request.models, request.dtype, remat, read_adapters(request.lora), request.control)
        sides = request.sides()
        if sides is not None:
            if not isinstance(found, Pipeline):
                raise Refused("--size is for models of captions; remove it")
            found = found.resize(*sides)
        if request.chunks > 1:
            if not isinstance(found, Pipeline):
                raise Refused("--chunks is for models of captions; remove it")
            found = found.lengthen(request.chunks)
        self.pipeline = found if isinstance(found, Pipeline) else None
        self.model: Any = found if self.pipeline is None else self.pipeline.model
        if not isinstance(self.model, Network | TokenModel | LanguageModel | AutoregressiveFlow):
            raise Refused(f"{denoiser_in(request.models)} holds a {type(self.model).__name__}, expected a denoiser")
        domain: Any = self.model.domain
        self.domain = domain
        self.images, self.text = isinstance(self.model, Network), isinstance(self.model, LanguageModel)
        self.flow = self.model if isinstance(self.model, AutoregressiveFlow) else None
        self.captions = self.pipeline is not None and self.pipeline.captions
        self.used |= {"weighted"} if self.captions else set()
        self.used |= {"hint"} if request.control is not None else set()
        if self.domain.text_length is not None and not self.captions:
            raise Refused("the model is conditional on captions, but it has no tokenizer; see the page on checkpoints")
        if (request.prompts or request.negative) and not self.captions:
            raise Refused("prompts are for models of captions; write --label for the classes of this one")
        if request.labels and self.captions:
            raise Refused("labels are for models of classes, and this one is conditional on captions; remove --label")
        if request.measurement is not None and self.pipeline is not None and self.pipeline.autoencoder is not None:
            raise Refused("a measurement needs pictures, but the model makes latents; set up the measurement in Python")
        ordered = self.text or self.flow is not None  # their levels are positions in a sequence
        self.schedule = None if ordered else self.domain.schedule or RectifiedFlow()
        if not ordered:
            self.used |= {"grid", "steps"}
        grid = None if self.pipeline is None else self.pipeline.grid
        if self.flow is not None:
            self.levels = patch_levels(self.domain.shape[0], self.flow.blocks)
        else:
            self.levels = request.levels(self.schedule, self.domain.shape, grid)
        if request.start is not None:
            self.levels = last_steps(self.levels, request.strength or STRENGTH)
        self._classifier: Any = None
        self.operator, self.std, self.y = self.read_measurement()

    # what a method may use

    def null(self, row: Row) -> Any:
        if self.captions and self.pipeline is not None:
            self.used.add("negative")
            return self.pipeline.null(self.request.negative, self.request.weighted)
        if self.domain.null_label is None:
            raise Refused(
                f"{row.name} needs a model with a null label, trained with conditioning dropout; write "
                "--method Classifier"
            )
        return np.int32(self.domain.null_label)

    def classifier(self, name: str = "it") -> Any:
        """Return the classifier beside the denoiser; `name` is the method that needs it, for the message."""
        self.used.add("microbatch")
        if self._classifier is None:
            folder = self.folder / "classifier"
            if not folder.exists():
                raise Refused(f"{name} needs a classifier beside the denoiser ({folder}); write --method none")
            self._classifier = load_once(folder, self.request.dtype, self.remat)
            if self.microbatch is not None:
                self._classifier = Microbatched(self._classifier, self.microbatch)
        return self._classifier

    def read_measurement(self) -> tuple[Any, Any, Any]:
        table = self.request.measurement
        if table is None:
            return None, None, None
        if "operator" not in table or "observed" not in table:
            raise Refused(f"a measurement needs operator and observed; write {MEASURE}")
        operator = table["operator"]
        if isinstance(operator, Mapping):
            operator = Builder(lambda row: None).make(operator, OPERATORS, "operator", "measurement.operator.")
        y = table["observed"]
        y = read_array(y) if isinstance(y, str) else np.asarray(y)
        return operator, float(table.get("std", NOISE)), y

    def measured_shape(self) -> tuple[int, ...]:
        """Return the shape of a measurement of one sample."""
        shape = self.domain.shape
        self.operator.check(shape)
        try:
            found = jax.eval_shape(self.operator, jax.ShapeDtypeStruct(shape, jnp.float32)).shape
            if isinstance(self.operator, Mask) and found != shape:
                raise ValueError(f"it has shape {np.shape(self.operator.mask)}")
            return found
        except (TypeError, ValueError) as error:  # the user gives the array of a mask or a kernel, of any shape
            name = type(self.operator).__name__
            reason = f"{name} does not accept samples of shape {shape} ({first_line(error)})"
            raise Refused(f"{reason}; correct measurement.operator") from None

    def uses_measurement(self, row: Row) -> bool:
        used = self.operator is not None and bool(row.needs & {"operator", "mask", "likelihood"})
        self.used |= {"measurement"} if used else set()
        return used

    def solver(self, row: Row) -> Any:
        """Return the requested solver, else the default one for this kind of method."""
        self.used.add("solver")
        if self.request.solver is not None:
            return self.build(self.request.solver, SOLVERS, "solver", "solver.")
        if self.text:
            return Ancestral()
        if self.flow is not None:
            return DrawPatch() if self.flow.blocks == 1 else PatchByPatch()
        if not self.images:
            each = len(self.levels.t) - 1 == self.domain.shape[0]  # one step per token, where FirstHitting is exact
            return FirstHitting() if each and isinstance(self.model.process, Absorbing) else Ancestral()
        if issubclass(row.cls, MeanShift):
            learned = isinstance(self.model.parameterization, LearnedRange)
            return DDPM.like_openai(self.levels, learned_range) if learned else DDPM(fixed_small)
        # particles are weighed by random transitions, children differ by them, and the step of DPS needs the noise
        random = issubclass(row.cls, Move | Descending | DPS) or (issubclass(row.cls, Step) and row.cls.weighs)
        return DDIM(1.0) if random else DDIM()

    def build(self, asked: Mapping[str, Any], rows: Mapping[str, Row], what: str, path: str = "") -> Any:
        """Build the part that a table describes, from what this request offers."""
        return Builder(partial(Given, self)).make(asked, rows, what, path)

    def clip(self, model: Any) -> Any:
        self.used |= {"clip"} if self.images else set()
        usual = None if self.pipeline is None else self.pipeline.clip
        radius = usual if self.request.clip == "usual" else self.request.clip
        return Clip(model, radius) if self.images and radius is not None else model

    def kernel(self) -> Any:
        """Build the kernel of the requested method."""
        table = dict(self.request.method)
        name = str(table.get("name", NONE))
        if name.lower() == NONE:
            if len(table) > 1:
                raise Refused(f"--method none takes no options, got {', '.join(k for k in table if k != 'name')}")
            return Reverse(self.clip(self.model), self.solver(PARTS["Reverse"]))
        row = find(name, METHODS, "method")
        if self.microbatch is not None and not row.needs & {"classifier", "likelihood"}:
            raise Refused(f"--microbatch is for the gradient of a classifier, got --method {row.name}")
        smc = table.pop("smc", {})
        if not isinstance(smc, Mapping):
            raise Refused(f"smc must be a table of options of SMC, got {show(smc)}; write --set smc.threshold=0.5")
        if self.captions and "null" in table:
            raise Refused("the null condition of a model of captions is a caption; write --negative")
        part = self.build(table, METHODS, "method")
        if isinstance(part, Move):
            rows = {"SMC": dataclasses.replace(PARTS["SMC"], sources={"move": Source(PART, lambda _: part)})}
            return self.build({"name": "SMC", **smc}, rows, "smc", "smc.")
        if smc:
            raise Refused(f"smc options are for particle methods, got --method {row.name}")
        return part if isinstance(part, Kernel) else Reverse(self.clip(part), self.solver(row))

    def edit(self, kernel: Any) -> Any:
        """Return the kernel that starts from the picture to edit; without a picture, `kernel` itself."""
        if self.request.start is None or not self.images:
            return kernel
        self.used |= {"start", "strength", "mask"}
        return edit_from(kernel, self.request.start, self.request.mask, self.domain.shape, self.pipeline)

    def add_hint(self, cond: Any) -> Any:
        """Add the picture that a ControlNet follows to the conditions."""
        if (self.request.control is None) != (self.request.hint is None):
            raise Refused("--control and --hint go together: the folder of a ControlNet, and the picture it follows")
        if self.request.hint is None:
            return cond
        sides = dict(self.domain.context)["image"][:2]
        picture = read_picture(self.request.hint, sides, "--hint", None) / 2 + 0.5
        return cond | {"image": np.broadcast_to(picture, (len(cond["context"]), *picture.shape))}

    def plan(self, n: int) -> Plan:
        """Make the plan for `n` samples."""
        kernel = self.edit(self.kernel())
        if kernel.population:
            self.used.add("particles")
        asked = {*self.request.given, *(["microbatch"] if self.microbatch is not None else [])}
        unused = tuple(sorted(asked - self.used))
        labels = self.labels(n)  # may read the number of classes from the classifier
        cond: Any = labels
        if self.captions and self.pipeline is not None:
            if not self.request.prompts:
                raise Refused('the model is conditional on captions; write --prompt "a red cat"')
            cond = self.add_hint(self.encode(self.request.prompts[: None if self.several() else n]))
            if self.several():  # all captions at once are one condition
                cond, labels = jax.tree.map(lambda a: a[None], cond), np.zeros_like(labels)
            shape = self.domain.shape
            particles = self.request.particles
            return Plan(kernel, self.levels, shape, cond, labels, particles, self.pipeline, labels, unused)
        if "measurement" in self.used:
            for row in rows_in(self.request.method):
                if row.needs & {"null", "classifier"} or row.cls is PerClass:
                    what = f"{row.name} needs a label as the condition, but a measurement adds more to the condition"
                    raise Refused(f"{what}; combine the two in Python")
            shape = self.measured_shape()
            y = np.asarray(self.y, np.float32)
            if y.shape not in (shape, (n, *shape)):
                raise Refused(
                    f"the operator returns shape {shape}, the measurement has shape {y.shape}; give one, or {n} of them"
                )
            cond = {"label": labels, "y": np.broadcast_to(y, (n, *shape))}
        particles, shape = self.request.particles, self.domain.shape
        return Plan(kernel, self.levels, shape, cond, labels, particles, self.pipeline, unused=unused, flow=self.flow)

    def encode(self, captions: tuple[str, ...]) -> Any:
        """Encode captions to conditions on the host, 64 at a time."""
        assert self.pipeline is not None
        parts = [
            jax.tree.map(np.asarray, self.pipeline.conditions(captions[i : i + 64], self.request.weighted))
            for i in range(0, len(captions), 64)
        ]
        return jax.tree.map(lambda *rows: np.concatenate(rows), *parts)

    def guides(self) -> bool:
        return str(self.request.method.get("name", NONE)).lower() != NONE

    def several(self) -> bool:
        """Return whether the method takes several conditions for one sample."""
        return self.guides() and "several conditions" in find(str(self.request.method["name"]), METHODS, "method").needs

    def labels(self, n: int) -> np.ndarray:
        """Return the requested classes: (n,), in turn; for `Compose` (n, K), all of them for each sample."""
        if self.captions:
            return np.arange(n, dtype=np.int32) % max(len(self.request.prompts), 1)
        classes = self.domain.num_classes
        if classes is None and (self.folder / "classifier").exists() and self.guides():
            own = self.classifier().domain
            classes = None if own is None else own.num_classes
        own = () if self.pipeline is None else self.pipeline.classes
        names = classes_of(self.request.models) or own
        chosen = [number_of(label, names) for label in self.request.labels]
        if chosen and classes is None and not (self.guides() and (self.folder / "classifier").exists()):
            raise Refused("the model has no classes; remove --label")
        if self.several() and chosen:
            return np.tile(np.asarray(chosen, np.int32), (n, 1))
        some = np.asarray(chosen or range(classes or 1), np.int32)
        rows = some[np.arange(n) % len(some)]
        return rows[:, None] if self.several() else rows


class Given:
    """Offer the fields of `methods.Given` to one row; each is built when it is read."""

    def __init__(self, offer: Offer, row: Row):
        self.offer, self.row = offer, row
        self.operator, self.std = offer.operator, offer.std
        self.schedule = offer.schedule
        self.neighbours = self.attribute = self.embeddings = self.prompt = None  # only in Python

    def clip(self, model: Any) -> Any:
        """Clip the model of a kernel that calls it directly; guidance is clipped later, as a whole."""
        steps = issubclass(self.row.cls, Kernel) and not issubclass(self.row.cls, KernelWrapper)
        return self.offer.clip(model) if steps else model

    @property
    def model(self) -> Any:
        return self.clip(self.offer.model)

    @property
    def free(self) -> Any:
        return self.clip(self._free)

    @property
    def _free(self) -> Any:
        """The model that a gradient steers: unconditional if it has a null condition, else with its label (OpenAI)."""
        if self.offer.domain.null_label is not None or self.offer.captions:
            return Unconditional(self.offer.model, self.null)
        return Conditioned(self.offer.model, "label") if self.offer.uses_measurement(self.row) else self.offer.model

    @property
    def reverse(self) -> Any:
        model = self._free if self.offer.uses_measurement(self.row) else self.offer.model
        return Reverse(self.offer.clip(model), self.solver)

    @property
    def unguided(self) -> Any:
        return Reverse(self._free, self.solver)

    @property
    def solver(self) -> Any:
        return self.offer.solver(self.row)

    @property
    def null(self) -> Any:
        return self.offer.null(self.row)

    @property
    def classifier(self) -> Any:
        return self.offer.classifier(self.row.name)

    @property
    def likelihood(self) -> Any:
        """The likelihood of a clean estimate: that of a measurement, else of the classifier at the last noise level."""
        if self.offer.operator is not None:
            self.offer.used.add("measurement")
            return GaussianLikelihood(self.offer.operator, self.offer.std, "y")
        if not self.offer.images:
            return self.classifier
        return jax.tree_util.Partial(at_level, self.classifier, self.offer.levels.at(-2))

    @property
    def value(self) -> Any:
        """The value head of a model of tokens."""
        if not isinstance(self.offer.model, HiddenNetwork):
            raise Refused(f"{self.row.name} needs a model of tokens with a value head; write --method CFG")
        return value_head(self.offer.model)

    @property
    def mask(self) -> Any:
        return self.operator.mask if isinstance(self.operator, Mask) else None

    @property
    def observed(self) -> Any:
        return "y" if self.offer.uses_measurement(self.row) else None

    @property
    def weak(self) -> Any:
        return perturb(self.offer.model, attention=1.0) if self.offer.images else self.free

    @property
    def scale(self) -> float:
        self.offer.used.add("scale")
        return self.offer.request.scale

    @property
    def weights(self) -> Any:
        return jnp.ones(max(len(self.offer.request.labels), len(self.offer.request.prompts), 1))

    @property
    def per_class(self) -> Any:
        return np.full(self.offer.domain.num_classes or 1, self.scale, np.float32)

    def part(self, name: str) -> Any:
        return self.offer.build({"name": name}, METHODS, "inside")


def rows_in(asked: Mapping[str, Any]) -> list[Row]:
    """Return the rows that a table names, the row of the table itself first."""
    name = asked.get("name", NONE)
    own = [] if name.lower() == NONE else [find(name, PARTS | GUIDES, "part")]
    return own + [row for part in asked.values() if isinstance(part, Mapping) for row in rows_in(part)]


def number_of(label: int | str, names: tuple[str, ...]) -> int:
    """Return the number of a label that is given as a number or as the name of a class.

    Raises:
      Refused: a name that the model does not know, or a number out of range.
    """
    text = str(label)
    if text in names:
        return names.index(text)
    if re.fullmatch("-?[0-9]+", text, re.ASCII):
        if len(text) > 10 or not 0 <= int(text) <= LABELS:
            raise Refused(f"labels go from 0 to {len(names) - 1 if names else LABELS}, got {show(text)}")
        return int(text)
    near = difflib.get_close_matches(text[:80], names, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise Refused(f"there is no class called {show(text)}; {hint}known are {', '.join(names) or 'numbers only'}")


def at_level(classifier: Guide, at: Level, x: Any, level: Level, cond: Any) -> Any:
    """Return log p(cond | x) of a noisy classifier at the level `at`, whatever the sampler's `level` is."""
    return classifier.log_prob(x, at, cond)
