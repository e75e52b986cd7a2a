"""Every part that there is, as makers over one small model a space: what `laws/test_pairs.py` puts together.

A maker takes a model of any space. Most pairs make no sense, which the library has to say itself.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

import guidance_jax as gj
from tests.table import MIXTURE, Taught
from tests.token_table import EMBEDDED, GPT, HIDDEN, MASKED, TABLE, UNIFORM

NULL, CLASSES = 3, 3


class Base(NamedTuple):
    """A model of one space, the levels and the shape that it is sampled on."""

    model: Any
    levels: Any
    shape: tuple[int, ...]


COSINE, FLOW = gj.Cosine(), gj.RectifiedFlow()
BASES = {
    "plane": Base(MIXTURE, COSINE.levels(3), (2,)),
    "embeddings": Base(EMBEDDED, COSINE.levels(3), (3, 2)),
    "masks": Base(MASKED, FLOW.levels(3), (3,)),
    "masks, hidden": Base(HIDDEN, FLOW.levels(3), (3,)),
    "uniform": Base(UNIFORM, FLOW.levels(3), (3,)),
    "text": Base(GPT, gj.positions(4), (4,)),
}


def judge(x, level, cond):
    """A guide that any sample can be given to, one-hot vectors and hidden states too."""
    return -0.05 * (1 + cond) * jnp.sum(jnp.asarray(x, jnp.float32) ** 2)


def ratios(x, level, cond):
    return -0.1 * (1 + cond) * jnp.arange(3.0) * jnp.ones((len(x), 1))


def attribute(log_p, hidden, cond):
    return log_p[0]


def first_entry(x):
    return x.ravel()[:1]


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
NOISY = gj.NoisyClassifier((), lambda params, x, t: jnp.arange(3.0) * jnp.sum(jnp.asarray(x, jnp.float32)))
CLEAN = gj.guidance.CleanClassifier((), lambda params, x: jnp.arange(3.0) * jnp.sum(jnp.asarray(x, jnp.float32)))
SIMILAR = gj.guidance.Similarity(lambda x: jnp.asarray(x, jnp.float32).ravel()[:2], lambda y: jnp.stack([1.0 + y, 1.0]))
MEASURE = gj.guidance.GaussianLikelihood(first_entry, 0.5, seen)

g, d, t, e = gj.guidance, gj.discrete, gj.text, gj.embeddings
METHODS = {
    "CFG": lambda m: gj.CFG(m, NULL, 1.5),
    "CFG, in turn": lambda m: gj.CFG(m, NULL, 1.5, in_turn=True),
    "CFG, window": lambda m: gj.CFG(m, NULL, gj.Window(1.5, 0.3, 3.0)),
    "Rescale": lambda m: g.Rescale(m, NULL, 1.5),
    "APG": lambda m: g.APG(m, NULL, 1.5),
    "CFGPlusPlus": lambda m: g.CFGPlusPlus(m, NULL, 0.5),
    "CFGZeroStar": lambda m: g.CFGZeroStar(m, NULL, 1.5),
    "TCFG": lambda m: g.TCFG(m, NULL, 1.5),
    "FDG": lambda m: g.FDG(m, NULL, 1.5, lowpass=mean),
    "MAMBOG": lambda m: g.MAMBOG(m, NULL, 1.5),
    "Compose": lambda m: gj.Conditioned(g.Compose(m, NULL, [1.0, -0.3]), two),
    "DynamicNegative": lambda m: g.DynamicNegative(m, NULL, 0.5),
    "AdaptiveGuidance": lambda m: g.AdaptiveGuidance(m, NULL, 1.5),
    "Perturbed": lambda m: g.Perturbed(m, NULL, 1.5, gj.Conditioned(m, another), 0.5),
    "Autoguidance": lambda m: gj.Autoguidance(m, gj.Conditioned(m, another), 1.5),
    "Internal": lambda m: g.Internal(m, 1.5),
    "Learned": lambda m: g.Learned(Taught(m), 1.5),
    "Tempered": lambda m: g.Tempered(m, 1.3),
    "Classifier": lambda m: gj.Classifier(m, judge, 0.5),
    "Reuse": lambda m: g.Reuse(gj.Classifier(m, judge, 0.5), 2),
    "Reconstruction": lambda m: gj.Reconstruction(m, judge, 0.5),
    "LGD": lambda m: g.LGD(m, judge, 0.5, draws=2),
    "MPGD": lambda m: g.MPGD(m, judge, 0.1),
    "Universal": lambda m: g.Universal(m, judge, 0.5, rate=0.1),
    "TFG": lambda m: g.TFG(m, judge, 0.1, 0.1, 0.1, iters=1, draws=2),
    "PiGDM": lambda m: g.PiGDM(m, first_entry, 0.3, 0.5, seen, iterations=2),
    "TMPD": lambda m: g.TMPD(m, first_entry, 0.3, 0.5, seen),
    "MMPS": lambda m: g.MMPS(m, first_entry, 0.3, 0.5, seen, iterations=1),
    "Clip": lambda m: gj.Clip(m, 2.0),
    "DynamicClip": lambda m: g.DynamicClip(m),
    "Rounded": lambda m: e.Rounded(m, TABLE, 0.5),
    "PredictorFree": lambda m: d.PredictorFree(m, NULL, 1.5),
    "PredictorGuidance": lambda m: d.PredictorGuidance(m, judge, 0.5, chunk=4),
    "DensityRatio": lambda m: d.DensityRatio(m, ratios, 0.5),
    "TAG": lambda m: d.TAG(m, judge, 0.5),
    "NOS": lambda m: d.NOS(m, judge, 0.5, steps=2),
    "Forbid": lambda m: d.Forbid(m, jnp.array([False, True, False])),
    "FUDGE": lambda m: t.FUDGE(m, PREFIX, 0.5),
    "PPLM": lambda m: t.PPLM(m, attribute, 0.5, steps=2),
    "Contrastive": lambda m: t.Contrastive(m, gj.Conditioned(m, another), 1.5),
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
    return gj.DDIM(1.0) if isinstance(model.space, gj.core.GaussianDiffusion) else gj.Ancestral()


KERNELS = {
    "Reverse": lambda m: gj.Reverse(m, usual(m)),
    "MeanShift": lambda m: gj.MeanShift(m, usual(m), judge, 0.5),
    "DPS": lambda m: gj.kernels.DPS(m, usual(m), first_entry, 0.1, seen),
    "RectifiedCFGPlusPlus": lambda m: gj.kernels.RectifiedCFGPlusPlus(m, NULL, 0.5, COSINE),
    "MapSteps": lambda m: gj.kernels.MapSteps(m),
    "SVDD": lambda m: gj.kernels.SVDD(m, usual(m), judge, 0.5, children=2),
    "Split": lambda m: gj.kernels.Split(m, usual(m), judge, 0.5),
    "DiffusionLM": lambda m: e.DiffusionLM(m, usual(m), judge, 0.5, steps=2),
    "LaMBO": lambda m: d.LaMBO(m),
    "AnyOrder": lambda m: d.AnyOrder(m, judge, 0.5),
    "ParticleGuidance": lambda m: gj.particles.ParticleGuidance(m, usual(m), 0.1),
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
    "Corrector": lambda k: gj.kernels.Corrector(k, MIXTURE, 0.1),
    "Corrector of masks": lambda k: gj.kernels.Corrector(k, MASKED, 0.1),
    "Padded": lambda k: gj.kernels.Padded(k),
    "Infill": lambda k: gj.Infill(k, lambda cond: jnp.array([-1, 2, -1])),
    "Infill, prompt": lambda k: gj.Infill(k, jnp.array([0, 1, -1, -1])),
    "SMC": lambda k: gj.SMC(gj.BestOf(k, judge, 0.1), threshold=0.5),
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
