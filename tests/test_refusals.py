"""Bad input: one line that says what came, what was expected and what to write."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import guidance_jax as gj
from guidance_jax.discrete import (
    NOS,
    TAG,
    FirstHitting,
    Forbid,
    HiddenNetwork,
    LaMBO,
    MaskPredict,
    PredictorFree,
    PredictorGuidance,
    TauLeap,
)
from guidance_jax.guidance import (
    FDG,
    MPGD,
    CleanClassifier,
    Compose,
    ImplicitClassifier,
    Perturbed,
    Reuse,
    Similarity,
)
from guidance_jax.inverse import MMPS
from guidance_jax.kernels import Corrector
from guidance_jax.models.parameterizations import LearnedRange
from guidance_jax.operators import Downsample, Linear
from guidance_jax.particles import ParticleGuidance
from guidance_jax.schedules import LinearVP
from guidance_jax.text import FUDGE, PPLM, PrefixClassifier
from guidance_jax.zoo.gpt2.reader import load_gpt2
from tests.table import MIXTURE, NULL, SCHEDULE, UNCONDITIONAL, log_clean, log_posterior
from tests.token_table import GPT, HIDDEN, MASKED, UNIFORM, along, likes, log_masked
from tests.token_table import LEVELS as TOKEN_LEVELS

SHAPE, LEVELS, LABELS = (4, 4, 1), SCHEDULE.levels(5), jnp.array([0, 1])
DOMAIN = gj.Domain(SHAPE, SCHEDULE, num_classes=10, null_label=10)
MODEL = gj.Network((), lambda params, x, t, cond: x, gj.parameterizations.v, DOMAIN, batched=False)
BARE = gj.Domain(SHAPE, SCHEDULE)


def classifier(**changes):
    domain = dict(shape=SHAPE, schedule=SCHEDULE, num_classes=10) | changes
    return gj.NoisyClassifier((), lambda params, x, t: jnp.zeros(10) * x.sum(), gj.Domain(**domain), batched=False)


def run(kernel, labels=LABELS, shape=SHAPE, levels=LEVELS):
    return gj.generate(gj.keys(0, 2), kernel, levels, shape, labels)


def clean(**changes):
    domain = dict(shape=SHAPE, num_classes=10) | changes
    return CleanClassifier((), lambda params, x: jnp.zeros(10) * x.sum(), gj.Domain(**domain))


def populations(move, n=4):
    return gj.populations(gj.keys(0, 2), gj.SMC(move), LEVELS, (2,), n, LABELS)


def plain(model=MODEL):
    return gj.Reverse(model, gj.DDIM())


def reversed_levels():
    return gj.Level(*(a[::-1] for a in LEVELS))


HIDDEN10 = HiddenNetwork(HIDDEN.params, HIDDEN.encode, HIDDEN.decode, HIDDEN.process, gj.Domain((3,), None, 4))
PREFIX = PrefixClassifier((), lambda params, token, position, state: (jnp.zeros(2), state), lambda length: ())


def masked(model=MASKED, solver=None):
    return gj.Reverse(model, solver or gj.Ancestral())


def tokens(kernel, labels=LABELS, steps=3):
    return gj.generate(gj.keys(0, 2), kernel, gj.RectifiedFlow().levels(steps), (3,), labels)


CASES = {
    "label out of range": (lambda: run(plain(), jnp.array([3, 11])), "got 11"),
    "negative label": (lambda: run(plain(), jnp.array([0, -1])), "got -1"),
    "label of a float type": (lambda: run(plain(), jnp.array([0.0, 1.0])), "astype"),
    "label of the classifier out of range": (
        lambda: run(gj.Reverse(gj.Classifier(gj.Unconditional(MODEL, 10), classifier(), 1.0), gj.DDIM()), LABELS + 9),
        "labels go from 0 to 9, got 10",
    ),
    "null label out of range": (lambda: run(plain(gj.CFG(MODEL, 12, 2.0))), "got 12"),
    "label missing": (lambda: run(plain(), None), r"conditional on 10 classes, got cond=None; write cond="),
    "tokens out of the vocabulary": (
        lambda: tokens(gj.Infill(masked(), jnp.array([-1, 3, 0]))),
        "tokens go from 0 to 2, got 3",
    ),
    "known tokens of another length": (
        lambda: tokens(gj.Infill(masked(), jnp.array([0, 1]))),
        r"shape \(2,\), the sample \(3,\)",
    ),
    "tokens that are no integers": (lambda: tokens(gj.Infill(masked(), jnp.zeros(3))), "must be integers, got float32"),
    "attribute out of range": (lambda: tokens(masked(HIDDEN10), jnp.array([3, 10])), "labels go from 0 to 3, got 10"),
    "attribute of a prefix classifier out of range": (
        lambda: gj.generate(
            gj.keys(0, 2),
            gj.Reverse(FUDGE(GPT, PREFIX, 1.0), gj.Ancestral()),
            gj.positions(6),
            (6,),
            jnp.array([0, 2]),
        ),
        "labels go from 0 to 1, got 2",
    ),
    "negative gamma": (
        lambda: tokens(masked(PredictorGuidance(MASKED, log_masked, -1.0))),
        r"scale \(gamma\) of PredictorGuidance must not be negative, got -1.0",
    ),
    "negative gamma, predictor-free": (
        lambda: tokens(masked(PredictorFree(MASKED, 3, -0.5))),
        "PredictorFree must not be negative, got -0.5",
    ),
    "a negative exponent for PPLM": (lambda: PPLM(GPT, likes, gamma=-1.0), "must not be negative, got -1.0"),
    "a scale per sample that is NaN": (
        lambda: run(plain(gj.CFG(MODEL, 10, gj.PerSample(jnp.array([1.0, jnp.nan]))))),
        "is NaN; give every number of a kernel a value",
    ),
    "a scale per class that is NaN": (
        lambda: run(plain(gj.CFG(MODEL, 10, gj.PerClass(jnp.ones(10).at[3].set(jnp.nan))))),
        "a number in table of PerClass is NaN",
    ),
    "a scale that is text": (lambda: run(plain(gj.CFG(MODEL, 10, "3"))), r"such as a scale, got '3' \(str\)"),
    "banned tokens by their numbers": (
        lambda: tokens(masked(Forbid(MASKED, jnp.array([2])))),
        r"one True or False per token of the vocabulary, \(3,\) or \(L, 3\), got shape \(1,\)",
    ),
    "a classifier of one-hot vectors with a mistake in it": (
        lambda: tokens(masked(TAG(MASKED, lambda x, level, cond: jnp.sum(x @ jnp.ones(7)), 1.0))),
        "does not accept .*TypeError: .*; use PredictorGuidance",
    ),
    "a folder that is not there": (lambda: gj.load("nowhere"), "there is no folder nowhere; check the path"),
    "a folder of GPT-2 that is not there": (lambda: load_gpt2("nowhere"), "there is no folder nowhere"),
    "a solver of images for tokens": (
        lambda: tokens(gj.Reverse(MASKED, gj.DDIM())),
        r"DDIM is for images or vectors, but the model is for masked tokens; use Ancestral\(\)",
    ),
    "a solver of tokens for images": (
        lambda: run(gj.Reverse(MODEL, gj.Ancestral())),
        r"Ancestral is for tokens, but the model is for images or vectors; use DDIM\(\)",
    ),
    "rates of images": (
        lambda: run(plain(TAG(MODEL, classifier(), 1.0))),
        "TAG is for tokens under diffusion, but the model is for images or vectors",
    ),
    "rates of a language model": (
        lambda: gj.generate(gj.keys(0, 2), gj.Reverse(GPT, TauLeap()), gj.positions(6), (6,), jnp.array([0, 1])),
        "TauLeap is for tokens under diffusion, but the model is for text; use Ancestral",
    ),
    "first hitting in too few steps": (
        lambda: tokens(masked(solver=FirstHitting()), steps=2),
        "3 tokens need as many steps, got 2",
    ),
    "masks of a process without": (
        lambda: tokens(gj.Reverse(UNIFORM, MaskPredict())),
        "MaskPredict is for masked tokens, but the model is for tokens under uniform",
    ),
    "NOS without hidden states": (
        lambda: tokens(masked(NOS(MASKED, along, 1.0))),
        "denoiser with hidden states, got Enumerated",
    ),
    "LaMBO without masks": (lambda: tokens(LaMBO(MASKED)), "edits by NOS on an absorbing process"),
    "infilling of images": (
        lambda: run(gj.Infill(plain(), jnp.zeros(3, int))),
        "Infill is for tokens, but the model is for images",
    ),
    "temperature of zero": (lambda: gj.Ancestral(temperature=0.0), "temperature must be positive"),
    "a vocabulary of one": (lambda: gj.Absorbing(1), "at least two tokens, got 1"),
    "a ban of another size": (
        lambda: tokens(masked(Forbid(MASKED, jnp.zeros(4, bool)))),
        r"\(3,\) or \(L, 3\), got shape \(4,\)",
    ),
    "starts of another number": (
        lambda: gj.generate(gj.keys(0, 2), masked(), TOKEN_LEVELS, (3,), LABELS, jnp.zeros((3, 3), int)),
        r"one start per key, \(2, 3\), got \(3, 3\)",
    ),
    "label missing for CFG": (lambda: run(plain(gj.CFG(MODEL, 10, 2.0)), None), "got cond=None"),
    "no null condition": (lambda: run(plain(gj.CFG(MODEL, None, 2.0))), "conditioning dropout"),
    "one label for two keys": (lambda: run(plain(), jnp.array(3)), r"one condition per key \(2\)"),
    "wrong image shape": (lambda: run(plain(), shape=(8, 8, 1)), r"shape \(4, 4, 1\), got \(8, 8, 1\)"),
    "wrong channel count": (lambda: run(plain(), shape=(4, 4, 3)), r"got \(4, 4, 3\)"),
    "wrong shape for the mixture": (lambda: run(plain(MIXTURE), shape=(3,)), r"\(2,\), got \(3,\)"),
    "wrong label for the mixture": (lambda: run(plain(MIXTURE), jnp.array([0, 7]), (2,)), "got 7"),
    "classifier on another schedule": (
        lambda: run(plain(gj.Classifier(MODEL, classifier(schedule=LinearVP()), 1.0))),
        "trained on Cosine.*classifier on LinearVP.*OnSchedule",
    ),
    "classifier on another schedule, mean form": (
        lambda: run(gj.MeanShift(MODEL, gj.DDPM(), classifier(schedule=LinearVP()), 1.0)),
        "OnSchedule",
    ),
    "classifier of another shape": (lambda: run(plain(gj.Classifier(MODEL, classifier(shape=(8, 8, 1)), 1.0))), "8, 8"),
    "classifier of other classes": (
        lambda: run(plain(gj.Classifier(MODEL, classifier(num_classes=7), 1.0))),
        "10 classes, the classifier 7",
    ),
    "levels of another schedule": (lambda: run(plain(), levels=gj.RectifiedFlow().levels(5)), "another schedule"),
    "levels that rise": (lambda: run(plain(), levels=reversed_levels()), "fall from noise to data"),
    "levels that stand still": (
        lambda: run(plain(), levels=gj.Level(*(jnp.repeat(a, 2) for a in LEVELS))),
        "fall from noise to data",
    ),
    "one level": (lambda: run(plain(), levels=LEVELS.at(slice(0, 1))), "length >= 2"),
    "solver without a Gaussian kernel": (
        lambda: run(gj.MeanShift(MODEL, gj.Heun(), classifier(), 1.0)),
        "solver with a transition density, got Heun; use DDPM",
    ),
    "guidance that the kernel would ignore": (
        lambda: run(gj.MeanShift(MODEL, gj.DDIM(0.0), classifier(), 1.0)),
        "would be ignored",
    ),
    "learned variance of a model without one": (
        lambda: run(gj.Reverse(MODEL, gj.DDPM(gj.solvers.learned_range))),
        "predicts no variance",
    ),
    "learned variance without the channels": (
        lambda: run(plain(gj.Network((), lambda p, x, t, c: x, LearnedRange(), DOMAIN, batched=False))),
        "twice the channels",
    ),
    "solver and model swapped": (
        lambda: run(gj.Reverse(gj.DDIM(), MODEL)),
        "second argument of Reverse must be a solver",
    ),
    "a function as a model": (lambda: run(gj.Reverse(lambda x, level, cond: x, gj.DDIM())), r"Function\(f\)"),
    "no repeats": (lambda: gj.Recur(plain(), 0), "at least once, got repeats=0"),
    "half-precision state": (
        lambda: gj.sample(jax.random.key(0), plain(MIXTURE), LEVELS, jnp.zeros(2, jnp.bfloat16), 0),
        "int32 tokens, got bfloat16",
    ),
    "unknown respacing": (lambda: gj.LinearBetas().levels("fast"), '"ddim25"'),
    "impossible stride": (lambda: gj.LinearBetas().levels("ddim300"), "no whole stride gives 300"),
    "more steps than there are": (lambda: gj.LinearBetas().levels(2000), "cannot take 2000 of 1000"),
    "start of a respaced process": (lambda: gj.LinearBetas().levels(10, start=0.5), "remove start"),
    "grid upside down": (lambda: gj.schedules.karras(gj.VE(), 10, lo=3.0, hi=1.0), "lo=3.0, hi=1.0"),
    "an empty window": (lambda: gj.Window(2.0, 3.0, 0.5), "lo=3.0 is not below hi=0.5"),
    "likelihood that returns an array": (
        lambda: run(plain(gj.Reconstruction(MIXTURE, lambda x0, level, cond: x0)), shape=(2,)),
        r"one log-likelihood for one sample, got shape \(2,\)",
    ),
    "reward that returns an array": (
        lambda: populations(gj.Steered(MIXTURE, gj.DDIM(1.0), lambda x0, level, cond: x0)),
        r"got shape \(2,\); sum over the entries",
    ),
    "clean classifier of other classes": (
        lambda: run(plain(gj.Reconstruction(MODEL, clean(num_classes=7), 1.0))),
        "10 classes, the classifier 7",
    ),
    "clean classifier of another size": (
        lambda: run(plain(MPGD(MODEL, clean(shape=(8, 8, 1)), 1.0))),
        r"\(8, 8, 1\)",
    ),
    "one particle": (lambda: populations(gj.Twisted(MIXTURE, gj.DDIM(1.0), log_clean), n=1), "at least two particles"),
    "one particle to keep away from": (
        lambda: gj.populations(gj.keys(0, 2), ParticleGuidance(MIXTURE, gj.DDIM(), 1.0), LEVELS, (2,), 1, LABELS),
        "at least two particles",
    ),
    "twisted particles on a solver without a Gaussian kernel": (
        lambda: populations(gj.Twisted(MIXTURE, gj.Heun(), log_clean)),
        "solver with a transition density, got Heun; use DDPM",
    ),
    "twisted particles without noise": (
        lambda: populations(gj.Twisted(MIXTURE, gj.DDIM(), log_clean)),
        "0 at eta=0",
    ),
    "measurement of another shape": (
        lambda: run(plain(MMPS(UNCONDITIONAL, lambda x: x[:1], 0.1)), jnp.zeros((2, 3)), (2,)),
        r"gives \(1,\), the measurement has shape \(3,\)",
    ),
    "known pixels of another shape": (
        lambda: run(gj.Inpaint(plain(UNCONDITIONAL), jnp.ones(2)), jnp.zeros((2, 3)), (2,)),
        r"with the shape of a sample, \(2,\), got \(3,\)",
    ),
    "an adjoint of another operator": (
        lambda: gj.operators.check_adjoint(Linear(lambda x: 2 * x, lambda y: 3 * y), (4,)),
        "the adjoint does not match",
    ),
    "an operator that is not linear": (lambda: gj.operators.check_adjoint(lambda x: x + 1.0, (4,)), "not linear"),
    "downsampling by what does not divide": (
        lambda: run(plain(MMPS(MODEL, Downsample(3), 0.1))),
        r"with sides that \d divides, got \(4, 4, 1\)",
    ),
    "as many weights as conditions": (
        lambda: run(plain(Compose(MIXTURE, NULL, jnp.ones(3))), jnp.zeros((2, 2), int), (2,)),
        "has 3 weights and conditions of leading sizes",
    ),
    "reuse of what is no gradient": (
        lambda: run(plain(Reuse(gj.CFG(MODEL, 10, 2.0), 4))),
        "got CFG; use Classifier",
    ),
    "reuse for no step": (lambda: Reuse(gj.Classifier(MODEL, classifier(), 1.0), 0), "got every=0"),
    "no corrector step": (lambda: Corrector(plain(), MODEL, 1.0, 0), "got steps=0"),
    "a contrast around a classifier": (
        lambda: run(plain(gj.CFG(gj.Classifier(MODEL, classifier(), 1.0), 10, 2.0))),
        r"put the classifier outside: Classifier\(CFG",
    ),
    "a weak model of another space": (
        lambda: run(plain(Perturbed(MODEL, 10, 2.0, MASKED, 1.0))),
        "two models of the same space, got GaussianDiffusion",
    ),
    "encoders of two sizes": (
        lambda: run(plain(gj.Reconstruction(MIXTURE, Similarity(lambda x: x, lambda y: jnp.ones(3)))), shape=(2,)),
        r"vectors of the same shape, got \(2,\) and \(3,\)",
    ),
    "an implicit classifier of unknown classes": (
        lambda: ImplicitClassifier(gj.Function(lambda x, level, cond: x), 3, SCHEDULE).log_posterior(
            jnp.zeros(2), SCHEDULE(0.5)
        ),
        "write num_classes=10",
    ),
    "low-pass of a vector": (
        lambda: run(plain(FDG(MIXTURE, NULL, 2.0)), shape=(2,)),
        r"images \(H, W, C\)",
    ),
    "negative tilt": (lambda: MIXTURE.sample_tilted(jax.random.key(0), 5, 1, -1.0), "scale >= 0"),
}


@pytest.mark.parametrize("name", CASES)
def test_refusal(name):
    act, message = CASES[name]
    with pytest.raises(ValueError) as caught:
        act()
    text = str(caught.value)
    assert re.search(message, text), text
    assert "\n" not in text
    assert len(text) < 300


def test_structure_is_checked_inside_a_user_s_jit_too():
    with pytest.raises(ValueError, match="with a transition density"):
        jax.jit(
            lambda key: gj.sample(
                key, gj.MeanShift(UNCONDITIONAL, gj.Heun(), log_posterior, 1.0), LEVELS, jnp.zeros(2), 1
            ).x
        )(jax.random.key(0))


def test_numbers_that_are_known_are_checked_inside_a_user_s_jit_too():
    def run(levels):
        return jax.jit(lambda key: gj.sample(key, plain(), levels, jnp.zeros(SHAPE), 1).x)(jax.random.key(0))

    assert run(LEVELS).shape == SHAPE
    with pytest.raises(ValueError, match="another schedule"):
        run(gj.RectifiedFlow().levels(5))


@pytest.mark.slow
def test_what_is_right_is_not_refused():
    guided = gj.Classifier(gj.Unconditional(MODEL, 10), classifier(), 1.0)
    assert run(plain(guided)).shape == (2, *SHAPE)
    assert run(plain(gj.CFG(MODEL, 10, 2.0)), jnp.array([0, 10])).shape == (2, *SHAPE)
    unlabelled = gj.Network(
        (), lambda params, x, t, cond: x if cond is None else x / 0, gj.parameterizations.v, BARE, batched=False
    )
    assert np.isfinite(run(plain(gj.Classifier(unlabelled, classifier(), 1.0)))).all()
    assert run(plain(gj.OnSchedule(MODEL, SCHEDULE)), levels=gj.RectifiedFlow().levels(5)).shape == (2, *SHAPE)
    other = gj.OnSchedule(classifier(schedule=LinearVP()), LinearVP())
    assert run(plain(gj.Classifier(MODEL, other, 1.0))).shape == (2, *SHAPE)
    assert run(gj.Reverse(MIXTURE, gj.DDIM()), jnp.array([0, NULL]), (2,)).shape == (2, 2)
