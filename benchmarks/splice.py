"""Splice sites, of which all sequences were measured: guidance of tokens."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import guidance_jax as gj
from benchmarks.suite import Row, benchmark
from benchmarks.sweep import DRAWN, estimates, family, sweep
from guidance_jax.app.recipe import adamw
from guidance_jax.datasets.sequences import Sequences
from guidance_jax.discrete import (
    NOS,
    SUNDAE,
    TAG,
    DensityRatio,
    FirstHitting,
    Forbid,
    PredictorFree,
    PredictorGuidance,
    TauLeap,
)
from guidance_jax.text import FUDGE
from guidance_jax.training.fit import fit
from guidance_jax.training.token_losses import DensityRatioMatching, Unrolled
from guidance_jax.zoo.sequence_models import neighbour_classifier, token_model, value_head
from guidance_jax.zoo.transformer import Transformer
from recipes import (
    train_language_model,
    train_prefix_classifier,
    train_token_classifier,
    train_tokens,
)
from released.donor import donor
from released.splice_data import splice as read_sites
from splice import FLOW, LABEL, Truth, methods, off_the_shelf
from table import Method, samples_of


def uniform_methods(model, classifier, steps):
    length, null = model.domain.shape[0], model.domain.null_label
    free, levels, sites = gj.Unconditional(model, null), FLOW.levels(steps), length * 4 + 1

    def row(make, scales, calls):
        return Method(samples_of(make, levels, (length,), LABEL), scales, calls)

    leap = TauLeap()
    return {
        f"uniform: conditional model, {steps} steps": row(
            lambda w: gj.Reverse(model, gj.Ancestral()), (1.0,), (steps, 0)
        ),
        f"uniform: D-CFG, {steps} steps": row(
            lambda w: gj.Reverse(gj.CFG(model, null, w), gj.Ancestral()), (2.0, 4.0), (2 * steps, 0)
        ),
        f"uniform: predictor-free rates, {steps} steps": row(
            lambda w: gj.Reverse(PredictorFree(model, null, w), leap), (2.0, 4.0), (2 * steps, 0)
        ),
        f"uniform: exact rates, {steps} steps": row(
            lambda w: gj.Reverse(PredictorGuidance(free, classifier, w), leap),
            (1.0, 2.0, 4.0),
            (steps, steps * sites),
        ),
        f"uniform: Taylor rates (TAG), {steps} steps": row(
            lambda w: gj.Reverse(TAG(free, classifier, w), leap), (1.0, 2.0, 4.0), (steps, 2 * steps)
        ),
    }


def unrolled_methods(model, steps):
    length, null = model.domain.shape[0], model.domain.null_label
    return {
        f"SUNDAE, D-CFG, {steps} steps": Method(
            samples_of(
                lambda w: gj.Reverse(gj.CFG(model, null, w), SUNDAE(share=0.3)),
                FLOW.levels(steps),
                (length,),
                LABEL,
            ),
            (1.0, 2.0, 4.0),
            (2 * steps, 0),
        )
    }


def text_methods(model, prefix, length):
    null, levels = model.domain.null_label, gj.positions(length + 1)
    model = Forbid(model, jnp.arange(5) == 0)  # the start token never comes again
    free = gj.Unconditional(model, null)

    def row(make, scales, calls):
        draw = samples_of(make, levels, (length + 1,), LABEL)
        return Method(lambda keys, w: draw(keys, w)[:, 1:] - 1, scales, calls)

    return {
        "left to right: conditional model": row(lambda w: gj.Reverse(model, gj.Ancestral()), (1.0,), (length, 0)),
        "left to right: CFG": row(
            lambda w: gj.Reverse(gj.CFG(model, null, w), gj.Ancestral()), (2.0, 4.0), (2 * length, 0)
        ),
        "left to right: FUDGE": row(
            lambda w: gj.Reverse(FUDGE(free, prefix, w), gj.Ancestral()), (1.0, 2.0, 4.0), (length, 5 * length)
        ),
    }


def ratio_methods(model, neighbours):
    length, free = model.domain.shape[0], gj.Unconditional(model, model.domain.null_label)

    def make(w):
        return gj.Reverse(DensityRatio(free, neighbours, w), FirstHitting())

    draw = samples_of(make, FLOW.levels(length), (length,), LABEL)
    return {"density ratios": Method(draw, (1.0, 2.0, 4.0), (length, length))}


def nos_methods(model):
    """NOS by its rate, twice: held back by the KL as published, and ten times more."""
    length, value = model.domain.shape[0], value_head(model)
    free = gj.Unconditional(model, model.domain.null_label)

    def row(kl):
        def make(rate):
            return gj.Reverse(NOS(free, value, 1.0, rate=rate, kl=kl, steps=10), FirstHitting())

        return Method(samples_of(make, FLOW.levels(length), (length,), LABEL), RATES, (11 * length, 0))

    return {"NOS, KL weight 0.01": row(0.01), "NOS, KL weight 0.1": row(0.1)}


RATES = (0.03, 0.1, 0.3, 1.0, 3.0)
CONTRASTS, POWERS = (1.0, 1.5, 2.0, 3.0, 4.0), (1.0, 1.5, 2.0, 3.0, 5.0)
CURVES = (
    "D-CFG",
    "exact rates",
    "density ratios",
    "Taylor rates (TAG)",
    "NOS, KL weight 0.1",
    "SUNDAE, D-CFG, 24 steps",
    "uniform: D-CFG, 32 steps",
    "left to right: FUDGE",
    "twisted particles, 4, led by TAG",
    "MMSplice, Taylor rates (TAG)",
    "MMSplice, twisted particles, 4, led by TAG",
)


def strengths(name, method):
    if name == "LaMBO-2, 8 edits":
        return (1.0, 3.0, 10.0, 30.0)
    if name.startswith("NOS") or (len(method.scales) == 1 and not name.startswith("Mask-Predict")):
        return method.scales
    return CONTRASTS if any(word in name for word in ("CFG", "predictor-free")) else POWERS


@benchmark(quick={"samples": 8, "steps": 2}, **DRAWN)
def splice(
    data: Path | None = None,
    folder: Path = Path("splice_models"),
    samples: int = 400,
    steps: int = 2000,
    known: list = (),
) -> Iterator[Row]:
    """Which guidance of tokens, at which cost, judged by measurement?

    5' splice sites: 30,483 of 32,768 sequences measured, so that samples are judged by what was measured of them.
    Trains, on the same 80 % and each in minutes on a CPU, an absorbing, a uniform and a step-unrolled model, noisy
    classifiers, a language model and a prefix classifier; then every method asks for the top decile, `samples` of a
    seed, at the strength whose samples of a validation seed come nearest to the true p(x | top decile) (`sweep.py`;
    what is measured of a sequence is no opinion, so that one judge serves for both). `--data`: a folder with
    mavenn-1.1.4-py3-none-any.whl; else it is downloaded.
    """
    every, published = read_sites(data, download=True), donor(data, download=True)
    seen, _ = every.split()
    truth, length = Truth(every), every.shape[0]
    masks, uniform = gj.Absorbing(4), gj.Uniform(4)
    model = train_tokens(folder / "masks", seen, masks, steps=steps, value_weight=0.3, progress=True)
    classifier = train_token_classifier(folder / "classifier", seen, masks, steps=steps, progress=True)
    other = train_tokens(folder / "uniform", seen, uniform, steps=steps, progress=True)
    judge = train_token_classifier(folder / "uniform_classifier", seen, uniform, steps=steps, progress=True)
    # a start token in front, the four bases after it
    shifted = Sequences(np.pad(seen.tokens + 1, ((0, 0), (1, 0))), seen.labels, seen.names, ("<s>", *seen.alphabet))
    language = train_language_model(folder / "language", shifted, width=64, steps=steps, batch=256, progress=True)
    prefix = train_prefix_classifier(folder / "prefix", shifted, steps=steps, batch=256, progress=True)
    network = Transformer(4, 4, length, width=64, depth=3, num_classes=3)
    unrolled, _ = fit(
        Unrolled(network.apply, uniform, FLOW, null=2),
        network.init(jax.random.key(0), jnp.zeros(length, int), jnp.zeros(()), jnp.zeros((), int)),
        seen,
        steps=steps,
        batch=256,
        optimizer=adamw(steps, 3e-3),
        ema=0.995,
        progress="SUNDAE           ",
    )
    sundae = token_model(network, unrolled, uniform, gj.Domain((length,), FLOW, 2, null_label=2))
    pairs = Transformer(5, 4 * 2, length, width=64, depth=2)
    neighbours = neighbour_classifier(pairs, pairs.init(jax.random.key(1), jnp.zeros(length, int), jnp.zeros(())), 2)
    ratios, _ = fit(
        DensityRatioMatching(neighbours.apply, masks, FLOW),
        neighbours.params,
        seen,
        steps=steps,
        batch=256,
        optimizer=adamw(steps, 2e-3),
        ema=0.995,
        progress="density ratios   ",
    )
    neighbours = dataclasses.replace(neighbours, params=ratios)
    found = methods(model, classifier) | ratio_methods(model, neighbours)
    del found["NOS"]  # its rate is swept instead
    found |= nos_methods(model) | off_the_shelf(model, published) | uniform_methods(other, judge, 32)
    found |= unrolled_methods(sundae, 24) | text_methods(language, prefix, length)

    def validate(name, tokens):
        measures = truth.measure(tokens)
        return measures["kl"], measures

    def report(tokens):
        return estimates(lambda rows: truth.measure(tokens[rows]), len(tokens))

    yield Row({"sites": "the top tenth"}, report(every.tokens[every.labels == LABEL]))
    yield Row({"sites": "every"}, truth.measure(every.tokens))
    families = {name: family(method, samples, strengths(name, method)) for name, method in found.items()}
    yield from sweep(families, validate=validate, report=report, curves=CURVES, known=known)
