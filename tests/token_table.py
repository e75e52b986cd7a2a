"""Every method for tokens and text with a small constructor: the laws of `laws/test_tokens.py` run over all rows."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import guidance_jax as gj
from guidance_jax.discrete import (
    NOS,
    SUNDAE,
    TAG,
    AnyOrder,
    DensityRatio,
    FirstHitting,
    Forbid,
    LaMBO,
    MaskPredict,
    PredictorFree,
    PredictorGuidance,
    SingleJump,
    TauLeap,
)
from guidance_jax.embeddings import DiffusionLM, Rounded
from guidance_jax.guidance import Tempered
from guidance_jax.oracles import Enumerated, MarkovModel
from guidance_jax.text import FUDGE, PPLM, Contrastive
from guidance_jax.zoo.sequence_models import embedding_model, language_model, token_model
from guidance_jax.zoo.transformer import GPT2, Transformer

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


def another(label):
    return (label + 1) % 3


def neighbours(x, level, label):
    """The exact log p(label | x with v at l), (L, V), one by one."""
    sites = jnp.arange(LENGTH * MASKED.space.vocabulary)
    at, v = jnp.divmod(sites, MASKED.space.vocabulary)
    each = jax.vmap(lambda at, v: log_masked(x.at[at].set(v), level, label))(at, v)
    return each.reshape(LENGTH, -1)


class Row(NamedTuple):
    """`make(strength)` is a kernel; at `off` it samples what `identity` does (None: it has no such point)."""

    make: Callable[[Any], Any]
    off: Any = None
    identity: Any = None
    levels: Any = LEVELS
    shape: tuple = (LENGTH,)


def masked(guided, solver=None):
    return gj.Reverse(guided, solver or gj.Ancestral())


ROWS = {
    "CFG": Row(lambda w: masked(gj.CFG(MASKED, NULL, w)), 1.0, masked(MASKED)),
    "CFG, uniform": Row(lambda w: masked(gj.CFG(UNIFORM, NULL, w)), 1.0, masked(UNIFORM)),
    PredictorFree: Row(lambda w: masked(PredictorFree(MASKED, NULL, w), TauLeap()), 1.0, masked(MASKED)),
    "PredictorFree, uniform": Row(
        lambda w: masked(PredictorFree(UNIFORM, NULL, w), TauLeap()),
        1.0,
        masked(UNIFORM, TauLeap()),
    ),
    PredictorGuidance: Row(
        lambda w: masked(PredictorGuidance(unconditional(MASKED), log_masked, w, chunk=2), TauLeap()),
        0.0,
        masked(unconditional(MASKED)),
    ),
    DensityRatio: Row(
        lambda w: masked(DensityRatio(unconditional(MASKED), neighbours, w), TauLeap()),
        0.0,
        masked(unconditional(MASKED)),
    ),
    TAG: Row(
        lambda w: masked(TAG(unconditional(UNIFORM), log_uniform, w), TauLeap()),
        0.0,
        masked(unconditional(UNIFORM), TauLeap()),
    ),
    gj.Ancestral: Row(
        lambda w: masked(gj.CFG(MASKED, NULL, w), gj.Ancestral(0.8, 2, 0.9)),
        1.0,
        masked(MASKED, gj.Ancestral(0.8, 2, 0.9)),
    ),
    TauLeap: Row(lambda w: masked(gj.CFG(MASKED, NULL, w), TauLeap()), 1.0, masked(MASKED, TauLeap())),
    FirstHitting: Row(
        lambda w: masked(gj.CFG(MASKED, NULL, w), FirstHitting()),
        1.0,
        masked(MASKED, FirstHitting()),
    ),
    AnyOrder: Row(lambda w: AnyOrder(unconditional(MASKED), log_masked, w)),
    MaskPredict: Row(
        lambda w: masked(gj.CFG(MASKED, NULL, w), MaskPredict(1.0)),
        1.0,
        masked(MASKED, MaskPredict(1.0)),
    ),
    SingleJump: Row(lambda w: masked(gj.CFG(UNIFORM, NULL, w), SingleJump()), 1.0, masked(UNIFORM, SingleJump())),
    SUNDAE: Row(
        lambda w: masked(gj.CFG(UNIFORM, NULL, w), SUNDAE(share=0.5)),
        1.0,
        masked(UNIFORM, SUNDAE(share=0.5)),
    ),
    Forbid: Row(
        lambda w: masked(Forbid(MASKED, jnp.arange(3) < jnp.minimum(w, 2)), TauLeap()),  # never all three
        0.0,
        masked(MASKED, TauLeap()),
    ),
    gj.Infill: Row(
        lambda w: gj.Infill(masked(gj.CFG(UNIFORM, NULL, w)), jnp.array([-1, 2, -1])),
        1.0,
        gj.Infill(masked(UNIFORM), jnp.array([-1, 2, -1])),
    ),
    NOS: Row(lambda w: masked(NOS(HIDDEN, along, w, rate=0.5)), 0.0, masked(HIDDEN)),
    "NOS, embeddings": Row(
        lambda w: gj.Reverse(NOS(EMBEDDED, along, w, rate=0.5), gj.DDIM(0.5)),
        None,
        None,
        gj.Cosine().levels(6),
        (LENGTH, 2),
    ),
    LaMBO: Row(lambda w: LaMBO(NOS(HIDDEN, along, w, rate=0.5))),
    FUDGE: Row(lambda w: masked(FUDGE(MARKOV, MARKOV.future, w, top=None)), 0.0, masked(MARKOV), TEXT_LEVELS, (6,)),
    PPLM: Row(lambda w: masked(PPLM(GPT, likes, w, rate=0.2)), 0.0, masked(GPT), TEXT_LEVELS, (6,)),
    Contrastive: Row(
        lambda w: masked(Contrastive(GPT, gj.Conditioned(GPT, another), w, plausible=0.0)),
        1.0,
        masked(GPT),
        TEXT_LEVELS,
        (6,),
    ),
    "CFG of logits": Row(lambda w: masked(gj.CFG(GPT, 3, w)), 1.0, masked(GPT), TEXT_LEVELS, (6,)),
    Rounded: Row(
        lambda w: gj.Reverse(Rounded(EMBEDDED, TABLE, w), gj.DDIM(0.5)),
        0.0,
        gj.Reverse(EMBEDDED, gj.DDIM(0.5)),
        gj.Cosine().levels(6),
        (LENGTH, 2),
    ),
    DiffusionLM: Row(
        lambda w: DiffusionLM(EMBEDDED, gj.DDIM(1.0), near, w),
        None,
        None,
        gj.Cosine().levels(6),
        (LENGTH, 2),
    ),
    "CFG of embeddings": Row(
        lambda w: gj.Reverse(gj.CFG(EMBEDDED, 3, w), gj.DPMSolver2M()),
        1.0,
        gj.Reverse(EMBEDDED, gj.DPMSolver2M()),
        gj.Cosine().levels(6),
        (LENGTH, 2),
    ),
}

# Moves of a population
PARTICLES = {
    gj.Twisted: lambda w: gj.Twisted(
        unconditional(MASKED),
        FirstHitting(),
        log_masked,
        w,
        TAG(unconditional(MASKED), log_masked, w),
        noisy=True,
    ),
    gj.Corrected: lambda w: gj.Corrected(gj.CFG(MASKED, NULL, w), FirstHitting()),
    "Corrected exact rates, uniform": lambda w: gj.Corrected(
        PredictorGuidance(unconditional(UNIFORM), log_uniform, w), gj.Ancestral()
    ),
    "Corrected tempering": lambda w: gj.Corrected(Tempered(MASKED, w), FirstHitting()),
    gj.BestOf: lambda w: gj.BestOf(masked(unconditional(MASKED), FirstHitting()), MASKED.log_likelihood, w),
    gj.Steered: lambda w: gj.Steered(unconditional(MASKED), FirstHitting(), MASKED.log_likelihood, w),
}
