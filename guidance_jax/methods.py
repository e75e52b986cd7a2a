"""The table of all parts that guide or step. A row says how a part is made, and at which options it changes nothing.

The command line, the laws of the tests, the comparisons and the pages of the documentation read this table, and know
only the parts in it. A row names each field that is no plain option, and says where its value comes from.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from guidance_jax import discrete as d
from guidance_jax import embeddings as e
from guidance_jax import flows as f
from guidance_jax import guidance as g
from guidance_jax import inverse as i
from guidance_jax import kernels as k
from guidance_jax import operators as o
from guidance_jax import particles as p
from guidance_jax import solvers as s
from guidance_jax import text as t


class Given(Protocol):
    """The objects that parts are made from, as the user of the table has them. A missing one raises `Refused`.

    Attributes:
      model: the denoiser, called with the condition.
      free: the denoiser without a condition, which a gradient steers.
      reverse: a kernel whose steps use the model.
      unguided: a kernel whose steps use the denoiser without a condition.
      solver: the solver of the kernels.
      schedule: the schedule of the model.
      null: the condition that means "unconditional".
      classifier: log p(y | x_t), a guide of noisy samples, or of the prefixes of a text.
      likelihood: log p(y | x_0), a guide of clean samples.
      neighbours: a classifier of all neighbours of masked tokens in one call, for `DensityRatio`.
      value: a guide of hidden states.
      attribute: a function of the distribution of the next token or patch, for `PPLM` and `CacheGuidance`.
      operator: the operator of a measurement.
      mask: 1 where a sample is measured, else 0.
      std: the standard deviation of the measurement's noise.
      observed: which part of the condition is the measurement; None for all of it.
      weak: a weaker model of the same data.
      embeddings: the table of the embeddings of all tokens.
      scale: the strength.
      weights: a strength for each of several conditions.
      per_class: a strength for each class.
      prompt: the given tokens of a sequence, and -1 elsewhere.

    >>> class Mine:
    ...     model, null, scale = "a network", 10, 2.0
    >>> {name: source.get(Mine) for name, source in METHODS["CFG"].sources.items()}
    {'inner': 'a network', 'null': 10, 'scale': 2.0}
    """

    model: Any
    free: Any
    reverse: Any
    unguided: Any
    solver: Any
    schedule: Any
    null: Any
    classifier: Any
    likelihood: Any
    neighbours: Any
    value: Any
    attribute: Any
    operator: Any
    mask: Any
    std: Any
    observed: Any
    weak: Any
    embeddings: Any
    scale: Any
    weights: Any
    per_class: Any
    prompt: Any

    def part(self, name: str) -> Any:
        """Return the method of that name, for methods that are made from another."""


# what the value of a field may be
PART, STRENGTH, LABEL = "a part", "a number or a part", "a label"
NUMBER, NUMBERS, COUNT, FLAG, FUNCTION = (
    "a number",
    "a list of numbers",
    "a whole number",
    "true or false",
    "a function",
)
FIXED = "of the model or of the measurement"


@dataclasses.dataclass(frozen=True)
class Source:
    """Say where the value of a field comes from.

    Attributes:
      kind: what the value may be.
      get: a function that returns the value from a `Given`; None if the class has a default, or the user must say.
      need: a word for what must be given, for example "classifier"; "" if every `Given` has it.
      shown: for an option of the user, the text beside its name in a list, "" for none; None for no option.
    """

    kind: str
    get: Callable[[Any], Any] | None = None
    need: str = ""
    shown: str | None = None


MODEL = Source(PART, lambda given: given.model)
FREE = Source(PART, lambda given: given.free)
REVERSE = Source(PART, lambda given: given.reverse)
UNGUIDED = Source(PART, lambda given: given.unguided)
SOLVER = Source(PART, lambda given: given.solver)
SCHEDULE = Source(FIXED, lambda given: given.schedule)
NULL = Source(LABEL, lambda given: given.null, "null")
CLASSIFIER = Source(PART, lambda given: given.classifier, "classifier")
LIKELIHOOD = Source(PART, lambda given: given.likelihood, "likelihood")
NEIGHBOURS = Source(PART, lambda given: given.neighbours, "classifier")
VALUE = Source(PART, lambda given: given.value, "hidden states")
ATTRIBUTE = Source(FIXED, lambda given: given.attribute, "hidden states")
OPERATOR = Source(PART, lambda given: given.operator, "operator")
MASK = Source(NUMBERS, lambda given: given.mask, "mask")
STD = Source(NUMBER, lambda given: given.std)
OBSERVED = Source(FIXED, lambda given: given.observed)
EXACT_STEP = Source(
    PART, lambda given: i.ExactStep(given.operator, given.std, given.observed), "operator", shown="of the measurement"
)
WEAK = Source(PART, lambda given: given.weak, shown="")
PROMPT = Source(NUMBERS, lambda given: given.prompt, shown="")
TABLE = Source(NUMBERS, lambda given: given.embeddings, "embeddings")
SCALE = Source(STRENGTH, lambda given: given.scale, shown="2.0")
WEIGHTS = Source(NUMBERS, lambda given: given.weights, "several conditions", shown="1 each")
PER_CLASS = Source(NUMBERS, lambda given: given.per_class, shown="2.0 each")
# plain options of a kind that their defaults do not tell
OPTION, NUMBERS_, STRENGTH_, COUNT_, NUMBER_ = (
    Source(kind, shown="") for kind in (PART, NUMBERS, STRENGTH, COUNT, NUMBER)
)
IN_PYTHON = Source(FIXED, shown="")


def usual(value: Any) -> Source:
    """Return the source of a number, for a field without a default.

    Args:
      value: the number that is taken unless the user gives one.

    >>> usual(2.0).shown
    '2.0'
    """
    return Source(COUNT if isinstance(value, int) else NUMBER, lambda _: value, shown=str(value))


def from_method(name: str) -> Source:
    """Return the source of a field whose value is another method.

    Args:
      name: the name of that method.

    >>> METHODS["CFG"].sources["inner"] is MODEL, METHODS["Clip"].sources["inner"].kind == from_method("CFG").kind
    (True, True)
    """
    return Source(PART, lambda given: given.part(name))


@dataclasses.dataclass(frozen=True)
class Row:
    """Describe one part: how it is made, and at which options it changes nothing.

    Attributes:
      cls: the class.
      family: the group in which it is listed.
      sources: the source of each field, by its name. Other fields are numbers, flags and functions with a default.
      off: the options at which it changes nothing; None if there are none.
      same: what it samples at `off`: "conditional" or "unconditional".
      own_network: whether it needs a network that was trained for it.
    """

    cls: Any
    family: str
    sources: Mapping[str, Source]
    off: Mapping[str, Any] | None = None
    same: str = "conditional"
    own_network: bool = False

    @property
    def name(self) -> str:
        return self.cls.__name__

    @property
    def needs(self) -> set[str]:
        """The words for what must be given: null, classifier, likelihood, operator, mask, hidden states, ..."""
        return {source.need for source in self.sources.values()} - {""}

    def make(self, given: Any, **options: Any) -> Any:
        """Make the part from what is `given`. `options` replace the values of fields."""
        values = {
            name: source.get(given) for name, source in self.sources.items() if source.get and name not in options
        }
        return self.cls(**values, **options)

    def kind(self, field: dataclasses.Field) -> str:
        """Return what the value of a field may be, by its source, or else by its default."""
        if field.name in self.sources:
            return self.sources[field.name].kind
        if isinstance(field.default, bool):
            return FLAG
        if callable(field.default) and not isinstance(field.default, type):
            return FUNCTION
        return COUNT if field.metadata.get("static", False) or isinstance(field.default, int) else NUMBER


CONTRAST, GRADIENT = "contrasts of two predictions", "gradients, and wrappers"
KERNEL, PARTICLES = "kernels: change the step", "particles: a population for each sample"
TOKENS, TEXT, EMBEDDINGS = "tokens", "text", "embeddings"
FLOWS = "autoregressive flows"
MACHINERY = "machinery"  # parts without guidance: the plain step, the padding of grids, the kernel of a population


def _rows(family: str, *rows: tuple) -> list[Row]:
    return [Row(cls, family, sources, *rest) for cls, sources, *rest in rows]


def _of_two(**more: Source) -> dict[str, Source]:
    """Return the sources of a rule of two predictions."""
    return {"inner": MODEL, "null": NULL, "scale": SCALE, **more}


def _of_gradient(**more: Source) -> dict[str, Source]:
    """Return the sources of a method by gradients."""
    return {"inner": FREE, **more, "scale": SCALE}


_ONE, _ZERO = {"scale": 1.0}, {"scale": 0.0}
_MEASURED = {"operator": OPERATOR, "std": STD, "observed": OBSERVED}
_SAMPLED = {"temperature": NUMBER_, "top_k": COUNT_, "top_p": NUMBER_}
_ROWS = [
    *_rows(
        CONTRAST,
        (g.CFG, _of_two(), _ONE),
        (g.Rescale, _of_two(output=IN_PYTHON), _ONE),
        (g.APG, _of_two(), _ONE),
        (g.CFGPlusPlus, _of_two(), _ZERO, "unconditional"),
        (g.CFGZeroStar, _of_two(output=IN_PYTHON), _ONE),
        (g.TCFG, _of_two(output=IN_PYTHON), _ONE),
        (g.FDG, _of_two(low=STRENGTH_), {"scale": 1.0, "low": 1.0}),
        (g.MAMBOG, _of_two(output=IN_PYTHON), _ONE),
        (
            g.Compose,
            {"inner": MODEL, "null": NULL, "weights": WEIGHTS, "window": STRENGTH_},
            {"weights": 0.0},
            "unconditional",
        ),
        (g.DynamicNegative, _of_two(), _ZERO, "unconditional"),
        (g.AdaptiveGuidance, _of_two(), _ONE),
        (
            g.Perturbed,
            _of_two(weak=WEAK, weak_scale=dataclasses.replace(usual(1.5), kind=STRENGTH)),
            {"scale": 1.0, "weak_scale": 0.0},
        ),
        (g.Autoguidance, {"inner": MODEL, "weak": WEAK, "scale": SCALE}, _ONE),
        (g.FasterCache, _of_two(asked=NUMBERS_), _ONE),
        (g.Internal, {"inner": MODEL, "scale": SCALE}, _ONE, "conditional", True),
        (g.Learned, {"inner": MODEL, "scale": SCALE}, _ONE, "conditional", True),
        (g.Tempered, {"inner": MODEL, "scale": SCALE}, _ONE),
    ),
    *_rows(
        GRADIENT,
        (g.Classifier, _of_gradient(classifier=CLASSIFIER), _ZERO, "unconditional"),
        (g.Reuse, {"inner": from_method("Classifier")}),
        (g.Reconstruction, _of_gradient(log_likelihood=LIKELIHOOD), _ZERO, "unconditional"),
        (g.LGD, _of_gradient(log_likelihood=LIKELIHOOD, spread=STRENGTH_), _ZERO, "unconditional"),
        (g.MPGD, _of_gradient(log_likelihood=LIKELIHOOD), _ZERO, "unconditional"),
        (
            g.Universal,
            _of_gradient(log_likelihood=LIKELIHOOD, rate=dataclasses.replace(usual(0.1), kind=STRENGTH)),
            {"scale": 0.0, "rate": 0.0},
            "unconditional",
        ),
        (
            g.TFG,
            {"inner": FREE, "log_likelihood": LIKELIHOOD, "rho": usual(1.0), "mu": usual(0.5), "spread": STRENGTH_},
            {"rho": 0.0, "mu": 0.0},
            "unconditional",
        ),
        (i.PiGDM, _of_gradient(**_MEASURED, weights=NUMBERS_), _ZERO, "unconditional"),
        (i.TMPD, _of_gradient(**_MEASURED), _ZERO, "unconditional"),
        (i.MMPS, _of_gradient(**_MEASURED), _ZERO, "unconditional"),
        (i.DiffPIR, _of_gradient(**_MEASURED), _ZERO, "unconditional"),
        (i.DPG, _of_gradient(log_likelihood=LIKELIHOOD, spread=STRENGTH_), _ZERO, "unconditional"),
        (
            p.PosteriorMean,
            _of_gradient(solver=SOLVER, reward=LIKELIHOOD, schedule=SCHEDULE),
            _ZERO,
            "unconditional",
        ),
        (g.Clip, {"inner": from_method("CFG")}, {"radius": float("inf")}),
        (g.DynamicClip, {"inner": from_method("CFG")}, {"radius": float("inf")}),
    ),
    *_rows(
        KERNEL,
        (
            k.MeanShift,
            {"model": FREE, "solver": SOLVER, "classifier": CLASSIFIER, "scale": SCALE},
            _ZERO,
            "unconditional",
        ),
        (k.Recur, {"inner": REVERSE, "repeats": usual(2)}, {"repeats": 1}),
        (k.Churn, {"inner": REVERSE, "schedule": SCHEDULE, "gamma": usual(0.2), "augment": IN_PYTHON}, {"gamma": 0.0}),
        (
            i.DPS,
            {"model": FREE, "solver": SOLVER, "operator": OPERATOR, "observed": OBSERVED, "scale": SCALE},
            _ZERO,
            "unconditional",
        ),
        (
            i.PSLD,
            {
                "model": FREE,
                "solver": SOLVER,
                "operator": OPERATOR,
                "observed": OBSERVED,
                "scale": SCALE,
                "decode": IN_PYTHON,
                "encode": IN_PYTHON,
            },
            _ZERO,
            "unconditional",
        ),
        (
            i.ReSample,
            {
                "model": FREE,
                "solver": SOLVER,
                "operator": OPERATOR,
                "observed": OBSERVED,
                "decode": IN_PYTHON,
                "encode": IN_PYTHON,
                "strength": NUMBER_,
            },
            {"strength": 0.0},
            "unconditional",
        ),
        (i.DDRM, {"model": FREE, **_MEASURED}),
        (i.DDNM, {"model": FREE, **_MEASURED}),
        (i.DAPS, {"model": FREE, "likelihood": EXACT_STEP, "schedule": SCHEDULE}),
        (i.SplitGibbs, {"model": FREE, "likelihood": EXACT_STEP, "solver": SOLVER, "schedule": SCHEDULE}),
        (i.REDdiff, {"model": FREE, **_MEASURED}),
        (k.Inpaint, {"inner": REVERSE, "mask": MASK, "observed": OBSERVED}),
        (k.Edit, {"inner": REVERSE, "picture": NUMBERS_, "mask": NUMBERS_}),
        (k.Corrector, {"inner": REVERSE, "model": MODEL}),
        (k.RectifiedCFGPlusPlus, _of_two(schedule=SCHEDULE), _ZERO),
        (k.MapSteps, {"model": MODEL}, None, "conditional", True),
        (k.SVDD, {"model": FREE, "solver": SOLVER, "reward": LIKELIHOOD, "scale": SCALE}, _ZERO, "unconditional"),
        (k.Split, {"model": FREE, "solver": SOLVER, "classifier": CLASSIFIER, "scale": SCALE}, _ZERO, "unconditional"),
    ),
    *_rows(
        PARTICLES,
        (
            p.Twisted,
            {"model": FREE, "solver": SOLVER, "log_twist": LIKELIHOOD, "scale": SCALE, "proposal": OPTION},
            _ZERO,
            "unconditional",
        ),
        (i.FPS, {"model": FREE, "solver": SOLVER, **_MEASURED}),
        (p.Corrected, {"model": from_method("CFG"), "solver": SOLVER, "proposal": OPTION}),
        (p.Steered, {"model": FREE, "solver": SOLVER, "reward": LIKELIHOOD, "scale": SCALE}, _ZERO, "unconditional"),
        (p.BestOf, {"kernel": UNGUIDED, "reward": LIKELIHOOD, "scale": SCALE}, _ZERO, "unconditional"),
        (
            i.EnKG,
            {"model": FREE, "solver": SOLVER, "operator": OPERATOR, "observed": OBSERVED}
            | {"schedule": SCHEDULE, "scale": SCALE},
            _ZERO,
            "unconditional",
        ),
        (p.ParticleGuidance, {"model": MODEL, "solver": SOLVER, "scale": SCALE}, _ZERO),
    ),
    *_rows(
        TOKENS,
        (d.PredictorFree, _of_two(), _ONE),
        (d.PredictorGuidance, _of_gradient(classifier=CLASSIFIER), _ZERO, "unconditional"),
        (d.DensityRatio, _of_gradient(classifier=NEIGHBOURS), _ZERO, "unconditional", True),
        (d.TAG, _of_gradient(classifier=CLASSIFIER), _ZERO, "unconditional"),
        (d.NOS, _of_gradient(value=VALUE, rate=STRENGTH_), _ZERO, "unconditional"),
        (d.LaMBO, {"model": from_method("NOS"), "objective": IN_PYTHON, "feasible": IN_PYTHON, "known": NUMBERS_}),
        (d.AnyOrder, {"model": FREE, "classifier": CLASSIFIER, "scale": SCALE, "top": COUNT_, "masks": COUNT_}),
        (d.Forbid, {"inner": MODEL, "banned": NUMBERS_}),
        (d.Infill, {"inner": REVERSE, "known": NUMBERS_}),
        (d.PromptCFG, {"inner": MODEL, "prompt": PROMPT, "scale": SCALE}, _ONE),
        (d.AdaptiveCFG, {"inner": MODEL, "scale": SCALE, "prompt": PROMPT}, _ONE),
        (d.AutomatonGuidance, {"inner": MODEL, "automaton": IN_PYTHON, "scale": SCALE}, _ZERO),
        (d.EntRGi, {"inner": MODEL, "reward": IN_PYTHON, "table": TABLE, "scale": SCALE}, _ZERO),
        (d.GibbsCorrector, {"inner": REVERSE, "model": MODEL}),
    ),
    *_rows(
        TEXT,
        (t.FUDGE, _of_gradient(future=CLASSIFIER), _ZERO, "unconditional"),
        (t.PPLM, _of_gradient(attribute=ATTRIBUTE, rate=STRENGTH_, window=STRENGTH_), _ZERO, "unconditional"),
        (t.Contrastive, {"inner": MODEL, "weak": WEAK, "scale": SCALE}, {"scale": 1.0, "plausible": 0.0}),
    ),
    *_rows(
        EMBEDDINGS,
        (e.Rounded, {"inner": MODEL, "table": TABLE, "share": SCALE}, {"share": 0.0}),
        (e.DiffusionLM, {"model": MODEL, "solver": SOLVER, "classifier": CLASSIFIER, "scale": SCALE}),
    ),
    *_rows(
        FLOWS,
        (f.AffineGuidance, {"inner": MODEL, "weak": WEAK, "scale": SCALE, "what": IN_PYTHON}, _ONE),
        (f.CacheGuidance, _of_gradient(attribute=ATTRIBUTE, rate=STRENGTH_), _ZERO, "unconditional"),
        (f.InfillPatches, {"inner": REVERSE, "known": NUMBERS_}),
    ),
    *_rows(
        MACHINERY,
        (k.Reverse, {"model": MODEL, "solver": SOLVER}),
        (k.Padded, {"inner": REVERSE}),
        (p.SMC, {"move": OPTION}),
    ),
]
METHODS = {row.name: row for row in _ROWS}
SOLVERS = {
    row.name: row
    for row in _rows(
        "solvers",
        *((cls, {}) for cls in (s.DDIM, s.DDPM, s.DPMSolver2M, s.DPMSolver3M, s.FreshNoise, s.Heun, s.LMS)),
        *((cls, {}) for cls in (s.SASolver, s.UniPC)),
        *((cls, {"schedule": SCHEDULE}) for cls in (s.DPM2, s.DPMSolver2S, s.GLASS)),
        *((cls, {}) for cls in (f.PatchByPatch, f.DrawPatch)),
        *((cls, _SAMPLED) for cls in (d.Ancestral, d.FirstHitting, d.MaskPredict, d.SingleJump, d.TauLeap)),
        (d.SUNDAE, {**_SAMPLED, "share": STRENGTH_}),
        (d.Remasking, _SAMPLED),
        (d.EntropyBound, {**_SAMPLED, "bound": NUMBER_, "stop": NUMBER_}),
        (
            d.PlannedUnmasking,
            {**_SAMPLED, **dict.fromkeys(("threshold", "bound", "noise", "edit"), NUMBER_)}
            | {"block": COUNT_, "last": COUNT_, "within": IN_PYTHON},
        ),
    )
}
SCALES = {
    row.name: row
    for row in _rows(
        "scales",
        (g.Window, {"scale": SCALE, "lo": NUMBER_, "hi": NUMBER_}, _ONE),
        (g.Ramp, {"scale": SCALE}, _ONE),
        (g.PerClass, {"table": PER_CLASS}),
        (g.PerSample, {"scales": NUMBERS_}),
    )
}
OPERATORS = {
    row.name: row
    for row in _rows(
        "operators of a measurement",
        (o.Mask, {"mask": NUMBERS_}),
        (o.Blur, {"kernel": NUMBERS_}),
        (o.Downsample, {"factor": COUNT_}),
        (o.Separable, {"rows": NUMBERS_, "columns": NUMBERS_}),
        (o.Matrix, {"matrix": NUMBERS_, "shape": IN_PYTHON}),
        (o.Fourier, {"mask": NUMBERS_}),
        (o.Radon, {"angles": NUMBERS_}),
        (o.PhaseRetrieval, {"oversample": NUMBER_}),
        (o.HighDynamicRange, {}),
        (o.JPEG, {}),
        (o.Composed, {"outer": OPTION, "inner": OPTION}),
        (o.Linear, {"f": IN_PYTHON, "own_adjoint": IN_PYTHON}),
    )
}
GUIDES = {
    row.name: row
    for row in _rows(
        "guides",
        (g.ImplicitClassifier, {"model": MODEL, "null": NULL, "schedule": SCHEDULE}),
        (g.GaussianLikelihood, _MEASURED),
        (p.Lookahead, {"model": FREE, "solver": SOLVER, "reward": LIKELIHOOD, "schedule": SCHEDULE}),
        (i.LinearTwist, {"model": FREE, **_MEASURED}),
    )
}
PARTS = METHODS | SOLVERS | SCALES | OPERATORS
