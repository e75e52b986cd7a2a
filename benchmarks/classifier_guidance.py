"""Classifiers of Fashion-MNIST as guides: noisy ones at rising scale, a clean one with particles."""

import dataclasses
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import guidance_jax as gj
from benchmarks.fashion import DATA, MODELS, RECIPE, denoiser, judges, models
from benchmarks.learned import BASE, NULL, SCHEDULE, SHAPE
from benchmarks.quality import clean_logits
from benchmarks.suite import Measure, Row, benchmark
from benchmarks.sweep import estimates
from guidance_jax.app.recipe import train_classifier
from guidance_jax.datasets.idx import FASHION, idx
from guidance_jax.guidance import CleanClassifier
from guidance_jax.metrics.calibration import by_level
from guidance_jax.metrics.report import evaluate

EARLY = dataclasses.replace(RECIPE, classifier_steps=800)
MEASURES = ("accuracy", "frechet", "precision", "recall", "diversity")


def kernels(model, classifier):
    """Both forms: name -> scale -> kernel."""
    free = gj.Unconditional(model, NULL)
    return {
        "score form, DDIM": lambda w: gj.Reverse(gj.Clip(gj.Classifier(free, classifier, w)), gj.DDIM()),
        "mean form, DDPM": lambda w: gj.MeanShift(gj.Clip(free), gj.DDPM(), classifier, w),
    }


def against_implied(model, classifier, data, ratios=(0.1, 0.3, 1.0, 3.0, 10.0)):
    """A classifier's gradient beside the one that the diffusion model implies, (eps_u - eps_c) / sigma: medians.

    cosine of the two; the ratio of their lengths.
    """

    of_model = gj.guidance.ImplicitClassifier(model, NULL, gj.Cosine())

    @jax.jit
    def at(images, labels, level, key):
        def one(x0, label, key):
            x = level.noise(x0, jax.random.normal(key, x0.shape))
            implied, own = of_model.score(x, level, label), classifier.score(x, level, label)
            sizes = jnp.linalg.norm(own), jnp.linalg.norm(implied)
            return jnp.sum(own * implied) / (sizes[0] * sizes[1]), sizes[0] / sizes[1]

        return jax.vmap(one)(images, labels, jax.random.split(key, len(images)))

    levels = gj.Cosine().by_ratio(ratios)
    for i, ratio in enumerate(ratios):
        found = at(jnp.asarray(data.images), jnp.asarray(data.labels), levels.at(i), jax.random.key(i))
        yield ratio, dict(zip(("cosine", "length"), (float(jnp.median(a)) for a in found), strict=True))


def draw(kernel, steps, n, seed, batch=150):
    labels = np.arange(n, dtype=np.int32) % 10
    levels = gj.Cosine().levels(steps)
    parts = [
        np.asarray(gj.generate(gj.keys(seed, batch, start=i), kernel, levels, SHAPE, labels[i : i + batch]))
        for i in range(0, n, batch)
    ]
    return np.concatenate(parts), labels


@benchmark(quick={"n": 10, "seeds": 1, "steps": 2, "scales": (1.0, 2.0)})
def classifier_guidance(
    data: Path = DATA,
    folder: Path = MODELS,
    n: int = 150,
    seeds: int = 2,
    steps: int = 20,
    scales: tuple[float, ...] = (1.0, 3.0, 8.0),
) -> Iterator[Row]:
    """Which classifier guides, and what is its trade-off of precision and recall?

    The diffusion model, the classifier (3,000 steps) and the judge of `fashion`; an early classifier (800 steps, as it
    was when guidance failed) is trained beside it. Both are examined level by level on held-out images; then each
    guides the unconditional model in both forms at rising scale, over several seeds. The last table is Dhariwal &
    Nichol's (arXiv 2105.05233, table 4 and figure 4): precision rises and recall falls with the scale.
    """
    found = models(data, folder)
    early = train_classifier(folder / "early_classifier", idx(data, names=FASHION), EARLY, progress=True)
    held_out = found.held_out.take(np.arange(3000))
    classifiers = {"800 steps": early, "3,000 steps": found.classifier}
    for name, classifier in classifiers.items():
        implied = against_implied(found.model, classifier, held_out.take(np.arange(256)))
        levels = by_level(classifier, held_out.take(np.arange(1000)), gj.Cosine())
        for level, (ratio, beside) in zip(levels, implied, strict=True):
            measures = level._asdict() | {f"{k} of the implied gradient": v for k, v in beside.items()}
            del measures["ratio"]
            yield Row({"classifier": name, "sigma / alpha": ratio}, measures)

    def row(name, kernel, scale):
        reports = [evaluate(*draw(kernel(scale), steps, n, seed), held_out, found.judge) for seed in range(seeds)]
        measures = {}
        for measure in MEASURES:
            values = [getattr(r, measure).value for r in reports]
            # over seeds, where there are several; else the bootstrap's
            error = np.std(values, ddof=1) / len(values) ** 0.5 if seeds > 1 else getattr(reports[0], measure).error
            measures[measure] = Measure(float(np.mean(values)), float(error))
        return Row({"method": name, "scale": scale}, measures)

    yield row("no guidance", lambda w: gj.Reverse(gj.Clip(gj.Unconditional(found.model, NULL)), gj.DDIM()), 0.0)
    forms = {
        f"{name}: {form}": kernel for name, c in classifiers.items() for form, kernel in kernels(found.model, c).items()
    }
    forms.pop("800 steps: mean form, DDPM")  # one form tells
    for name, kernel in forms.items():
        for scale in scales:
            yield row(name, kernel, scale)
    others = {
        "3,000 steps: on the conditional model": lambda w: gj.Classifier(found.model, found.classifier, w),
        "CFG": lambda w: gj.CFG(found.model, NULL, w),
    }
    yield row("conditional model", lambda w: gj.Reverse(gj.Clip(found.model), gj.DDIM()), 1.0)
    for name, guided in others.items():
        for scale in scales[1:2]:
            yield row(name, lambda w, guided=guided: gj.Reverse(gj.Clip(guided(w)), gj.DDIM()), scale)


@benchmark(quick={"n": 4, "steps": 2, "particles": (2,)})
def particle_count(
    data: Path = DATA,
    folder: Path = MODELS,
    n: int = 100,
    steps: int = 25,
    particles: tuple[int, ...] = (2, 4, 8),
    known: list = (),
) -> Iterator[Row]:
    """What do more particles buy?

    The twisted diffusion sampler's experiment (Wu et al. 2023, arXiv 2306.17775, figure 2: MNIST) on Fashion-MNIST: the
    unconditional model of `learned`, steered towards a class by a classifier of clean images, by 2 to 8 particles;
    beside them reconstruction guidance, one sample without weights, best-of-n, which weighs unguided samples by the
    same classifier, and trees that it grows. Another judge says how often the class was met, with bootstrap errors.
    """
    model = gj.Unconditional(denoiser(idx(data, names=FASHION), folder, BASE.width), NULL)
    both = judges(data, folder)
    own = gj.Domain(SHAPE, num_classes=10)
    twist = CleanClassifier(both["validation"].params, partial(clean_logits, both["validation"].apply), own)
    levels, labels = SCHEDULE.levels(steps), np.arange(n, dtype=np.int32) % 10
    solver, done = gj.DDIM(1.0), [row["case"] for row in known]

    def row(case, x, ess, calls, seconds):
        right, guide = (both[name](np.asarray(x))[0] == labels for name in ("judge", "validation"))
        found = estimates(
            lambda i: {"met, by another judge": right[i].mean(), "met, by the guide": guide[i].mean()}, n, 200
        )
        return Row(case, found | {"effective share": ess}, {"calls": calls, "seconds": round(seconds, 1)})

    for name, kernel, calls in (
        ("no guidance", gj.Reverse(gj.Clip(model), solver), 1),
        ("reconstruction guidance", gj.Reverse(gj.Reconstruction(gj.Clip(model), twist, 1.0), solver), 3),
    ):
        if (case := {"method": name, "particles": 1}) not in done:
            begin = time.perf_counter()
            x = gj.generate(gj.keys(0, n), kernel, levels, SHAPE, labels)
            yield row(case, x, None, calls * steps, time.perf_counter() - begin)
    best_of = gj.BestOf(gj.Reverse(gj.Clip(model), solver), twist)
    moves = {
        "twisted": (gj.populations, gj.SMC(gj.Twisted(gj.Clip(model), solver, twist)), 3),
        "best of": (gj.populations, gj.SMC(best_of, threshold=0.0), 1),
        "tree of": (gj.search.trees, best_of, 1),
    }
    for name, (run, move, calls) in moves.items():
        for count in particles:
            if (case := {"method": name, "particles": count}) not in done:
                begin = time.perf_counter()
                found = run(gj.keys(0, n), move, levels, SHAPE, count, labels)
                x, ess = found.draw(jax.random.key(1)), float(jnp.mean(found.ess[:, -1]) / count)
                yield row(case, x, ess, calls * count * steps, time.perf_counter() - begin)
