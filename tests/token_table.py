"""Every method for tokens and text with a small constructor: the laws of `laws/test_tokens.py` run over all rows."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import guidance_jax as gj
from guidance_jax.automata import Automaton
from guidance_jax.discrete import (
    NOS,
    SUNDAE,
    TAG,
    AdaptiveCFG,
    AnyOrder,
    AutomatonGuidance,
    DensityRatio,
    EntRGi,
    EntropyBound,
    FirstHitting,
    Forbid,
    GibbsCorrector,
    LaMBO,
    MaskPredict,
    PlannedUnmasking,
    PredictorFree,
    PredictorGuidance,
    PromptCFG,
    Remasking,
    SingleJump,
    TauLeap,
)
from guidance_jax.embeddings import DiffusionLM, Rounded
from guidance_jax.guidance import Tempered
from guidance_jax.methods import METHODS
from guidance_jax.oracles import Enumerated, MarkovModel
from guidance_jax.text import FUDGE, PPLM, Contrastive
from guidance_jax.zoo.sequence_models import embedding_model, language_model, token_model
from guidance_jax.zoo.transformer import GPT2, Transformer
from tests.given import Given

# An asymmetric joint distribution of three tokens and an attribute that is not certain even on clean sequences.
LENGTH, SIZE = 3, 3
JOINT = jax.nn.softmax(1.5 * jax.random.normal(jax.random.key(1), (SIZE**LENGTH,))).reshape((SIZE,) * LENGTH)
CLASSES = jax.nn.softmax(1.2 * jax.random.normal(jax.random.key(2), (SIZE**LENGTH, 3)), 1)
MASKED = Enumerated(JOINT, CLASSES, gj.Absorbing(SIZE))
UNIFORM = Enumerated(JOINT, CLASSES, gj.Uniform(SIZE))
NULL = 3
FLOW = gj.RectifiedFlow()
LEVELS = FLOW.levels(LENGTH)


def log_masked(x, level, label):
    """The exact classifier of masked sequences, defined once so that nothing retraces."""
    return MASKED.log_posterior(x, level, label)


def log_uniform(x, level, label):
    return UNIFORM.log_posterior(x, level, label)


def unconditional(model):
    return gj.Unconditional(model, NULL)


MARKOV = MarkovModel(jnp.array([[0.5, 0.3, 0.2], [0.25, 0.15, 0.6], [0.45, 0.35, 0.2]]), length=6, counted=1, least=2)
TEXT_LEVELS = gj.positions(6)


def shaken(params, key):
    """Random parameters of a size at which every layer matters."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(
        tree, [a + 0.2 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    )


def transformer(inputs, outputs, **options):
    net = Transformer(inputs, outputs, LENGTH, width=8, depth=2, heads=2, num_classes=4, **options)
    x = jnp.zeros(LENGTH, int) if inputs == SIZE + 1 else jnp.zeros((LENGTH, inputs))
    return net, shaken(net.init(jax.random.key(3), x, jnp.zeros(()), jnp.zeros((), int)), jax.random.key(4))


HIDDEN = token_model(*transformer(SIZE + 1, SIZE, decoder=1), gj.Absorbing(SIZE))
TABLE = jax.random.normal(jax.random.key(5), (SIZE, 2))
EMBEDDED = embedding_model(*transformer(2, SIZE, self_conditioned=True), TABLE)
_GPT = GPT2(SIZE, 6, width=8, depth=2, heads=2, num_classes=4)
GPT = language_model(
    _GPT, shaken(_GPT.init(jax.random.key(6), jnp.zeros(6, int), jnp.zeros((), int)), jax.random.key(7))
)
DIRECTION = jax.random.normal(jax.random.key(8), (8,))


def along(h, level, cond):
    """A value of hidden states."""
    return jnp.mean(h @ DIRECTION)


def likes(log_p, hidden, cond):
    """An attribute of the next token and the prefix."""
    return log_p[1] + 0.3 * hidden @ DIRECTION


def near(x, level, cond):
    """A classifier of embeddings."""
    return -jnp.sum((x - TABLE[cond]) ** 2)


def liked(e, level, cond):
    """A reward of the embeddings of a sequence."""
    return jnp.sum(jnp.tanh(e) * jnp.array([[1.0, -0.5]])) + 0.3 * jnp.sum(e[0] * e[-1])


def another(label):
    return (label + 1) % 3


def neighbours(x, level, label):
    """The exact log p(label | x with v at l), (L, V), one by one."""
    sites = jnp.arange(LENGTH * MASKED.space.vocabulary)
    at, v = jnp.divmod(sites, MASKED.space.vocabulary)
    each = jax.vmap(lambda at, v: log_masked(x.at[at].set(v), level, label))(at, v)
    return each.reshape(LENGTH, -1)


def two(label):
    return jnp.stack([label, (label + 1) % 3], -1)


class Row(NamedTuple):
    """`make(strength)` is a kernel; at `off` it samples what `identity` does (None: it has no such point)."""

    make: Callable[[Any], Any]
    off: Any = None
    identity: Any = None
    levels: Any = LEVELS
    shape: tuple = (LENGTH,)


def given(model, strength, **more):
    """What there is beside a model of sequences: `log_masked` for masks, `log_uniform` for uniform noise."""
    classifier = log_uniform if model is UNIFORM else near if model is EMBEDDED else log_masked
    free = unconditional(model) if any(model is m for m in (MASKED, UNIFORM)) else model
    found = Given(
        model=model, free=free, null=NULL, classifier=classifier, likelihood=classifier, neighbours=neighbours,
        value=along, attribute=likes, weak=gj.Conditioned(model, another), embeddings=TABLE, scale=strength,
        solver=FirstHitting(), unguided=masked(free, FirstHitting()), reverse=masked(gj.CFG(model, NULL, strength)),
    )  # fmt: skip
    return dataclasses.replace(found, **more)


def masked(guided, solver=None):
    return gj.Reverse(guided, solver or gj.Ancestral())


def row(name, model, solver=None, **options):
    """A guidance of the table on `model` with a solver; its identity is what the table says."""
    method, solver = METHODS[name], solver or gj.Ancestral()
    text, embedded = any(model is m for m in (MARKOV, GPT)), model is EMBEDDED
    levels = TEXT_LEVELS if text else gj.Cosine().levels(6) if embedded else LEVELS
    off = None if method.off is None else next(iter(method.off.values()))
    same = given(model, off).free if method.same == "unconditional" else model
    return Row(
        lambda w: gj.Reverse(given(model, w).make(name, **options), solver),
        off,
        None if off is None else gj.Reverse(same, solver),
        levels,
        (6,) if text else (LENGTH, 2) if embedded else (LENGTH,),
    )


def solved(model, solver):
    """A solver with CFG."""
    return Row(lambda w: gj.Reverse(gj.CFG(model, NULL, w), solver), 1.0, gj.Reverse(model, solver))


KNOWN = jnp.array([-1, 2, -1])
RULE = Automaton.from_pattern("[ab]*c[ab]*", "abc")  # exactly one of the third token
ROWS = {
    "CFG": row("CFG", MASKED),
    "CFG, uniform": row("CFG", UNIFORM),
    PredictorFree: row("PredictorFree", MASKED, TauLeap())._replace(identity=masked(MASKED)),
    "PredictorFree, uniform": row("PredictorFree", UNIFORM, TauLeap()),
    PredictorGuidance: row("PredictorGuidance", MASKED, TauLeap(), microbatch=2)._replace(
        identity=masked(unconditional(MASKED))
    ),
    DensityRatio: row("DensityRatio", MASKED, TauLeap())._replace(identity=masked(unconditional(MASKED))),
    TAG: row("TAG", UNIFORM, TauLeap()),
    gj.Ancestral: solved(MASKED, gj.Ancestral(0.8, 2, 0.9)),
    TauLeap: solved(MASKED, TauLeap()),
    FirstHitting: solved(MASKED, FirstHitting()),
    AnyOrder: Row(lambda w: given(MASKED, w).make("AnyOrder")),
    MaskPredict: solved(MASKED, MaskPredict(1.0)),
    SingleJump: solved(UNIFORM, SingleJump()),
    SUNDAE: solved(UNIFORM, SUNDAE(share=0.5)),
    Forbid: Row(
        lambda w: masked(Forbid(MASKED, jnp.arange(3) < jnp.minimum(w, 2)), TauLeap()),  # never all three
        0.0,
        masked(MASKED, TauLeap()),
    ),
    gj.Infill: Row(lambda w: given(UNIFORM, w).make("Infill", known=KNOWN), 1.0, gj.Infill(masked(UNIFORM), KNOWN)),
    PromptCFG: Row(
        lambda w: gj.Infill(masked(given(MASKED, w).make("PromptCFG", prompt=KNOWN), PlannedUnmasking()), KNOWN),
        1.0,
        gj.Infill(masked(MASKED, PlannedUnmasking()), KNOWN),
    ),
    AdaptiveCFG: row("AdaptiveCFG", MASKED, FirstHitting(), rho=0.6),
    AutomatonGuidance: row("AutomatonGuidance", MASKED, FirstHitting(), automaton=RULE),
    EntRGi: row("EntRGi", MASKED, FirstHitting(), reward=liked),
    "Compose": Row(
        lambda w: masked(gj.Conditioned(gj.guidance.Compose(MASKED, NULL, w * jnp.array([1.0, -0.4])), two)),
        0.0,
        masked(unconditional(MASKED)),
    ),
    PlannedUnmasking: solved(MASKED, PlannedUnmasking(0.8, noise=0.1)),
    Remasking: solved(MASKED, Remasking(eta=0.4)),
    EntropyBound: solved(UNIFORM, EntropyBound(0.8, bound=0.5)),
    GibbsCorrector: Row(
        lambda w: GibbsCorrector(masked(UNIFORM), gj.CFG(UNIFORM, NULL, w)),
        1.0,
        GibbsCorrector(masked(UNIFORM), UNIFORM),
    ),
    NOS: row("NOS", HIDDEN, rate=0.5),
    "NOS, embeddings": row("NOS", EMBEDDED, gj.DDIM(0.5), rate=0.5)._replace(off=None, identity=None),
    LaMBO: Row(lambda w: given(HIDDEN, w).make("LaMBO", model=NOS(HIDDEN, along, w, rate=0.5))),
    FUDGE: row("FUDGE", MARKOV, future=MARKOV.future, top=None),
    PPLM: row("PPLM", GPT, rate=0.2),
    Contrastive: row("Contrastive", GPT, plausible=0.0),
    "CFG of logits": row("CFG", GPT),
    Rounded: row("Rounded", EMBEDDED, gj.DDIM(0.5)),
    DiffusionLM: Row(
        lambda w: given(EMBEDDED, w).make("DiffusionLM", solver=gj.DDIM(1.0)),
        None,
        None,
        gj.Cosine().levels(6),
        (LENGTH, 2),
    ),
    "CFG of embeddings": row("CFG", EMBEDDED, gj.DPMSolver2M()),
}

# Moves of a population
PARTICLES = {
    gj.Twisted: lambda w: given(MASKED, w).make(
        "Twisted", proposal=TAG(unconditional(MASKED), log_masked, w), noisy=True
    ),
    gj.Corrected: lambda w: given(MASKED, w).make("Corrected"),
    "Corrected exact rates, uniform": lambda w: gj.Corrected(
        PredictorGuidance(unconditional(UNIFORM), log_uniform, w), gj.Ancestral()
    ),
    "Corrected tempering": lambda w: gj.Corrected(Tempered(MASKED, w), FirstHitting()),
    gj.BestOf: lambda w: given(MASKED, w).make("BestOf", reward=MASKED.log_likelihood),
    gj.Steered: lambda w: given(MASKED, w).make("Steered", reward=MASKED.log_likelihood),
}
