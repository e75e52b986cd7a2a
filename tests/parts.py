"""Every part that there is, as makers over one small model a space: what `laws/test_pairs.py` puts together.

A maker takes a model of any space. Most pairs make no sense, which the library has to say itself.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

import guidance_jax as gj
from guidance_jax import methods
from tests.given import Given
from tests.table import MIXTURE, Taught
from tests.token_table import EMBEDDED, GPT, HIDDEN, MASKED, RULE, TABLE, UNIFORM

NULL, CLASSES = 3, 3


class Base(NamedTuple):
    """A model of one space, the levels and the shape that it is sampled on."""

    model: Any
    levels: Any
    shape: tuple[int, ...]


COSINE, FLOW = gj.Cosine(), gj.RectifiedFlow()
PATCHES = gj.flows.AutoregressiveFlow(
    jnp.array([0.3, -0.2]),
    lambda w, block, x, cond, temperature: (0.1 * (cond - 1) * jnp.tanh(jnp.cumsum(x, 0)), w * jnp.cumsum(x, 0)),
    lambda w, block, patch, i, cache, cond, temperature: (
        0.1 * (cond - 1) * jnp.tanh(cache + patch),
        w * (cache + patch),
        cache + patch,
    ),
    lambda length: jnp.zeros(2),
    1,
    gj.Domain((3, 2), num_classes=CLASSES, null_label=NULL),
)
BASES = {
    "plane": Base(MIXTURE, COSINE.levels(3), (2,)),
    "embeddings": Base(EMBEDDED, COSINE.levels(3), (3, 2)),
    "masks": Base(MASKED, FLOW.levels(3), (3,)),
    "masks, hidden": Base(HIDDEN, FLOW.levels(3), (3,)),
    "uniform": Base(UNIFORM, FLOW.levels(3), (3,)),
    "text": Base(GPT, gj.positions(4), (4,)),
    "flow": Base(PATCHES, gj.flows.patch_levels(3, 1), (3, 2)),
}


def judge(x, level, cond):
    """A guide that any sample can be given to, one-hot vectors and hidden states too."""
    return -0.05 * (1 + cond) * jnp.sum(jnp.asarray(x, jnp.float32) ** 2)


def ratios(x, level, cond):
    return -0.1 * (1 + cond) * jnp.arange(3.0) * jnp.ones((len(x), 1))


def attribute(log_p, hidden, cond):
    return log_p[0]


def first_of_mean(mean, log_std, cond):
    return mean[0]


def first_of_sum(e, level, cond):
    return jnp.sum(jnp.asarray(e, jnp.float32))


def first_entry(x):
    return x.ravel()[:1]


FIRST = gj.operators.Matrix(jnp.array([[1.0, 0.0]]))  # the same of the plane, with its singular values


def seen(cond):
    """A measurement, by label."""
    return jnp.full(1, 0.3) * (1 + cond)


def two(cond):
    return jnp.stack([cond, (cond + 1) % CLASSES], -1)


def another(cond):
    return (cond + 1) % CLASSES


def same(cond):
    return cond


def mean(x):
    return jnp.full_like(x, jnp.mean(x))


PREFIX = gj.text.PrefixClassifier(
    (), lambda params, token, position, state: (jnp.arange(3.0) * token, state), lambda length: (), 3
)
NOISY = gj.NoisyClassifier(
    (), lambda params, x, t: jnp.arange(3.0) * jnp.sum(jnp.asarray(x, jnp.float32)), batched=False
)
CLEAN = gj.guidance.CleanClassifier((), lambda params, x: jnp.arange(3.0) * jnp.sum(jnp.asarray(x, jnp.float32)))
SIMILAR = gj.guidance.Similarity(lambda x: jnp.asarray(x, jnp.float32).ravel()[:2], lambda y: jnp.stack([1.0 + y, 1.0]))
MEASURE = gj.guidance.GaussianLikelihood(first_entry, 0.5, seen)

g, d, t = gj.guidance, gj.discrete, gj.text


def given(model):
    """What there is beside a model of any space."""
    return Given(
        model=model, free=model, null=NULL, classifier=judge, likelihood=judge, neighbours=ratios, value=judge,
        attribute=attribute, operator=first_entry, mask=jnp.array([1, 0]), std=0.3, observed=seen,
        weak=gj.Conditioned(model, another), embeddings=TABLE, scale=0.5, weights=[1.0, -0.3], schedule=COSINE,
        reverse=model, unguided=model,
    )  # fmt: skip


def make(name, model, /, **options):
    return given(model).make(name, **options)


def options_of(name, model):
    """Of a method, where the strength 0.5 or a default would take long, or is not its own."""
    row = methods.METHODS[name]
    if row.family == methods.CONTRAST and "scale" in row.sources and row.same == "conditional":
        return {"scale": 1.5} | SPECIAL.get(name, lambda m: {})(model)
    return SPECIAL.get(name, lambda m: {})(model)


SPECIAL = {
    "FDG": lambda m: {"lowpass": mean},
    "Perturbed": lambda m: {"weak_scale": 0.5},
    "Learned": lambda m: {"inner": Taught(m)},
    "Tempered": lambda m: {"scale": 1.3},
    "Reuse": lambda m: {"every": 2},
    "LGD": lambda m: {"draws": 2},
    "MPGD": lambda m: {"scale": 0.1},
    "TFG": lambda m: {"rho": 0.1, "mu": 0.1, "spread": 0.1, "steps": 1, "draws": 2},
    "PiGDM": lambda m: {"steps": 2},
    "MMPS": lambda m: {"steps": 1},
    "Clip": lambda m: {"inner": m, "radius": 2.0},
    "DynamicClip": lambda m: {"inner": m},
    "PredictorFree": lambda m: {"scale": 1.5},
    "PredictorGuidance": lambda m: {"microbatch": 4},
    "NOS": lambda m: {"steps": 2},
    "Forbid": lambda m: {"banned": jnp.array([False, True, False])},
    "FUDGE": lambda m: {"future": PREFIX},
    "PPLM": lambda m: {"steps": 2},
    "Contrastive": lambda m: {"scale": 1.5},
    "DPS": lambda m: {"scale": 0.1, "solver": usual(m)},
    "SVDD": lambda m: {"children": 2, "solver": usual(m)},
    "DPG": lambda m: {"draws": 2},
    "PosteriorMean": lambda m: {"draws": 2, "solver": usual(m)},
    "PSLD": lambda m: {"scale": 0.1, "solver": usual(m), "decode": same, "encode": same},
    "ReSample": lambda m: {"fits": 2, "solver": usual(m), "decode": same, "encode": same},
    "DDRM": lambda m: {"operator": FIRST},
    "DDNM": lambda m: {"operator": FIRST},
    "FPS": lambda m: {"operator": FIRST, "solver": usual(m)},
    "DAPS": lambda m: {"steps": 2},
    "SplitGibbs": lambda m: {"steps": 2, "solver": usual(m)},
    "EnKG": lambda m: {"scale": 0.1, "steps": 2, "solver": usual(m)},
    "DiffusionLM": lambda m: {"steps": 2, "solver": usual(m)},
    "LaMBO": lambda m: {"model": m},
    "PromptCFG": lambda m: {"prompt": jnp.array([-1, 1, -1]), "scale": 1.5},
    "AdaptiveCFG": lambda m: {"scale": 1.5},
    "AutomatonGuidance": lambda m: {"automaton": RULE},
    "EntRGi": lambda m: {"reward": first_of_sum},
    "GibbsCorrector": lambda m: {"inner": gj.Reverse(m, usual(m))},
    "CacheGuidance": lambda m: {"attribute": first_of_mean, "steps": 1},
}


def made(name):
    """model -> the method on it."""

    def of(model):
        part = make(name, model, **options_of(name, model))
        return gj.Conditioned(part, two) if name == "Compose" else part

    return of


IN_ORDER = (  # in which their outcomes are stored
    *("CFG", "Rescale", "APG", "CFGPlusPlus", "CFGZeroStar", "TCFG", "FDG", "MAMBOG", "Compose", "DynamicNegative"),
    *("AdaptiveGuidance", "Perturbed", "Autoguidance", "Internal", "Learned", "Tempered", "Classifier", "Reuse"),
    *("Reconstruction", "LGD", "MPGD", "Universal", "TFG", "PiGDM", "TMPD", "MMPS", "Clip", "DynamicClip", "Rounded"),
    *("PredictorFree", "PredictorGuidance", "DensityRatio", "TAG", "NOS", "Forbid", "FUDGE", "PPLM", "Contrastive"),
)
METHODS = {
    "CFG": made("CFG"),
    "CFG, in turn": lambda m: gj.CFG(m, NULL, 1.5, in_turn=True),
    "CFG, window": lambda m: gj.CFG(m, NULL, gj.Window(1.5, 0.3, 3.0)),
    **{name: made(name) for name in IN_ORDER[1:]},
    "Unconditional": lambda m: gj.Unconditional(m, NULL),
    "Conditioned": lambda m: gj.Conditioned(m, another),
    "OnSchedule": lambda m: gj.OnSchedule(m, COSINE),
    "Microbatched": lambda m: gj.models.Microbatched(m, 2),
}

SOLVERS = {
    "DDIM": gj.DDIM(),
    "DDIM(1)": gj.DDIM(1.0),
    "DDPM": gj.DDPM(gj.solvers.fixed_large),
    "Heun": gj.Heun(),
    "DPM2": gj.solvers.DPM2(COSINE),
    "2M": gj.DPMSolver2M(),
    "2M SDE": gj.DPMSolver2M(1.0),
    "2S": gj.solvers.DPMSolver2S(COSINE),
    "LMS": gj.solvers.LMS(),
    "GLASS": gj.solvers.GLASS(COSINE, 2),
    "Ancestral": gj.Ancestral(),
    "TauLeap": d.TauLeap(),
    "FirstHitting": d.FirstHitting(),
    "SingleJump": d.SingleJump(),
    "MaskPredict": d.MaskPredict(),
    "SUNDAE": d.SUNDAE(),
}


def usual(model):
    """A solver that the model's space takes."""
    if isinstance(model.space, gj.flows.Patches):
        return gj.flows.DrawPatch()
    return gj.DDIM(1.0) if isinstance(model.space, gj.core.GaussianDiffusion) else gj.Ancestral()


KERNELS = {
    "Reverse": lambda m: gj.Reverse(m, usual(m)),
    "MeanShift": lambda m: make("MeanShift", m, solver=usual(m)),
    "DPS": made("DPS"),
    "RectifiedCFGPlusPlus": made("RectifiedCFGPlusPlus"),
    "MapSteps": made("MapSteps"),
    "SVDD": made("SVDD"),
    "Split": lambda m: make("Split", m, solver=usual(m)),
    "DiffusionLM": made("DiffusionLM"),
    "LaMBO": made("LaMBO"),
    "AnyOrder": made("AnyOrder"),
    "ParticleGuidance": lambda m: make("ParticleGuidance", m, solver=usual(m), scale=0.1),
    "Twisted": lambda m: gj.SMC(gj.Twisted(m, usual(m), judge, 0.2)),
    "Twisted, noisy": lambda m: gj.SMC(gj.Twisted(m, usual(m), judge, 0.2, noisy=True)),
    "Twisted, led": lambda m: gj.SMC(gj.Twisted(m, usual(m), judge, 0.2, proposal=gj.Conditioned(m, another))),
    "Corrected": lambda m: gj.SMC(gj.Corrected(m, usual(m))),
    "Corrected, proposal": lambda m: gj.SMC(gj.Corrected(m, usual(m), proposal=1.0)),
    "Steered": lambda m: gj.SMC(gj.Steered(m, usual(m), judge, 0.1)),
    "BestOf": lambda m: gj.SMC(gj.BestOf(gj.Reverse(m, usual(m)), judge, 0.1), threshold=0.0),
}

WRAPPERS = {
    "Recur": lambda k: gj.Recur(k, 2),
    "Inpaint": lambda k: gj.Inpaint(k, jnp.array([1, 0]), lambda cond: jnp.stack([0.3 + 0 * cond, 0.0 * cond], -1)),
    "Edit": lambda k: gj.kernels.Edit(k, jnp.array([0.3, -0.2]), jnp.array([1, 0])),
    "Corrector": lambda k: gj.kernels.Corrector(k, MIXTURE, 0.1),
    "Corrector of masks": lambda k: gj.kernels.Corrector(k, MASKED, 0.1),
    "Padded": lambda k: gj.kernels.Padded(k),
    "Infill": lambda k: gj.Infill(k, lambda cond: jnp.array([-1, 2, -1])),
    "Infill, prompt": lambda k: gj.Infill(k, jnp.array([0, 1, -1, -1])),
    "SMC": lambda k: gj.SMC(gj.BestOf(k, judge, 0.1), threshold=0.5),
    "InfillPatches": lambda k: gj.flows.InfillPatches(k, jnp.full((3, 2), jnp.nan).at[0].set(0.5)),
}

GUIDES = {
    "function": judge,
    "NoisyClassifier": NOISY,
    "CleanClassifier": CLEAN,
    "GaussianLikelihood": MEASURE,
    "Similarity": SIMILAR,
    "ImplicitClassifier": g.ImplicitClassifier(MIXTURE, NULL, COSINE, points=2, draws=1),
    "PrefixClassifier": PREFIX,
    "ValueHead": d.ValueHead((), lambda params, h: jnp.arange(3.0) * jnp.sum(jnp.asarray(h, jnp.float32))),
    "Future": gj.oracles.MarkovModel(jnp.full((3, 3), 1 / 3), length=4).future,
    "a denoiser": MIXTURE,
    "a number": 3.0,
}
ADAPTERS = {
    "none": same,
    "Unconditional": lambda part: gj.Unconditional(part, 0),
    "Conditioned": lambda part: gj.Conditioned(part, same),
    "Microbatched": lambda part: gj.models.Microbatched(part, 2),
    "OnSchedule": lambda part: gj.OnSchedule(part, COSINE),
    "two": lambda part: gj.Conditioned(gj.models.Microbatched(part, 2), same),
}
ASKING = {
    "Classifier": lambda m, f: gj.Classifier(m, f, 0.5),
    "Reconstruction": lambda m, f: gj.Reconstruction(m, f, 0.5),
    "MPGD": lambda m, f: g.MPGD(m, f, 0.1),
    "PredictorGuidance": lambda m, f: d.PredictorGuidance(m, f, 0.5),
    "TAG": lambda m, f: d.TAG(m, f, 0.5),
    "NOS": lambda m, f: d.NOS(m, f, 0.5, steps=1),
    "FUDGE": lambda m, f: t.FUDGE(m, f, 0.5),
    "Autoguidance": lambda m, f: gj.Autoguidance(m, f, 1.5),
}


def add_the_rest():
    """What the table has and nobody gave options of its own: as it is usually made."""
    named = {*METHODS, *KERNELS, *WRAPPERS, *(type(solver).__name__ for solver in SOLVERS.values())}
    for row in (methods.METHODS | methods.SOLVERS).values():
        if row.name in named:
            continue
        if issubclass(row.cls, gj.core.Solver):
            SOLVERS[row.name] = row.make(given(MIXTURE))
        elif issubclass(row.cls, gj.core.Denoiser):
            METHODS[row.name] = made(row.name)
        elif issubclass(row.cls, gj.core.Move):
            KERNELS[row.name] = lambda m, name=row.name: gj.SMC(made(name)(m))
        else:
            KERNELS[row.name] = made(row.name)


add_the_rest()
