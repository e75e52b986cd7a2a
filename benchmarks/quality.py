"""Ways to guide images, each with as many steps as its budget affords."""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import guidance_jax as gj
from benchmarks.fashion import DATA, MODELS, RECIPE, Fashion, judging, models
from benchmarks.suite import Row, benchmark
from benchmarks.sweep import DRAWN, Family, sweep
from guidance_jax.diagnostics.ledger import ledger
from guidance_jax.guidance import (
    APG,
    FDG,
    MAMBOG,
    MPGD,
    TCFG,
    TFG,
    CFGPlusPlus,
    CFGZeroStar,
    CleanClassifier,
    Ramp,
    Rescale,
    Reuse,
)
from guidance_jax.kernels import RectifiedCFGPlusPlus, Split

SHAPE, NULL = (28, 28, 1), 10


def clean_logits(apply, params, x):
    return apply(params, x)[0]


class Parts(NamedTuple):
    """What methods are made from; `tiny` has networks that cost nothing, to count evaluations with."""

    model: gj.Network
    weak: gj.Network
    classifier: gj.NoisyClassifier
    clean: CleanClassifier

    @classmethod
    def of(cls, found: Fashion) -> "Parts":
        domain = gj.Domain(SHAPE, num_classes=10)
        clean = CleanClassifier(found.clean.params, partial(clean_logits, found.clean.apply), domain)
        return cls(found.model, found.weak, found.classifier, clean)

    def tiny(self) -> "Parts":
        def image(params, x, t, label, **_):
            return 0.1 * x + 0.0 * label

        def logits(params, x, *_):
            return x.sum() * jnp.arange(10.0)

        stand_in = (image, image, logits, logits)
        return Parts(*(dataclasses.replace(p, apply=f, params=()) for p, f in zip(self, stand_in, strict=True)))


def reverse(model, solver=None):
    return gj.Reverse(gj.Clip(model), solver or gj.DDIM())


def unconditional(p):
    return gj.Unconditional(p.model, NULL)


def auto(p, bad, w):
    return reverse(gj.Autoguidance(p.model, bad, w))


def perturbed(p, w, **how):
    return auto(p, gj.guidance.perturb(p.model, **how), w)


class Way(NamedTuple):
    """(parts, strength) -> kernel, and the strengths tried."""

    make: Callable[[Parts, Any], Any]
    strengths: tuple[float, ...] = (1.0,)


SCALES, CLASSIFIER, WORSE = (1.25, 1.5, 2.0, 3.0), (1.0, 2.0, 4.0, 8.0), (1.3, 1.6, 2.0, 3.0)
METHODS: dict[str, Way] = {
    "no guidance, not conditional": Way(lambda p, w: reverse(unconditional(p))),
    "conditional model, DDIM": Way(lambda p, w: reverse(p.model)),
    "conditional model, DPM-Solver++(2M)": Way(lambda p, w: reverse(p.model, gj.DPMSolver2M())),
    "classifier, score form": Way(lambda p, w: reverse(gj.Classifier(unconditional(p), p.classifier, w)), CLASSIFIER),
    "classifier, mean form": Way(
        lambda p, w: gj.MeanShift(gj.Clip(unconditional(p)), gj.DDPM(), p.classifier, w), CLASSIFIER
    ),
    "classifier on the conditional model": Way(
        lambda p, w: reverse(gj.Classifier(p.model, p.classifier, w)), (0.25, 0.5, 1.0, 2.0)
    ),
    "classifier, gradient reused 4 steps": Way(
        lambda p, w: reverse(Reuse(gj.Classifier(unconditional(p), p.classifier, w), 4)), CLASSIFIER
    ),
    "classifier, split, 2M": Way(
        lambda p, w: Split(gj.Clip(unconditional(p)), gj.DPMSolver2M(), p.classifier, w), CLASSIFIER
    ),
    "CFG": Way(lambda p, w: reverse(gj.CFG(p.model, NULL, w)), SCALES),
    "CFG, 2M": Way(lambda p, w: reverse(gj.CFG(p.model, NULL, w), gj.DPMSolver2M()), SCALES),
    "CFG, interval": Way(lambda p, w: reverse(gj.CFG(p.model, NULL, gj.Window(w, 0.3, 5.0))), SCALES),
    "CFG, ramp": Way(lambda p, w: reverse(gj.CFG(p.model, NULL, Ramp(w))), SCALES),
    "CFG, rescaled": Way(lambda p, w: reverse(Rescale(p.model, NULL, w, 0.7)), SCALES),
    "APG": Way(lambda p, w: reverse(APG(p.model, NULL, w, 0.0, -0.5, 5.0)), SCALES),
    "CFG++": Way(lambda p, w: reverse(CFGPlusPlus(p.model, NULL, w)), (0.1, 0.2, 0.4, 0.6)),
    "CFG-Zero*": Way(lambda p, w: reverse(CFGZeroStar(p.model, NULL, w)), SCALES),
    "TCFG": Way(lambda p, w: reverse(TCFG(p.model, NULL, w)), SCALES),
    "FDG": Way(lambda p, w: reverse(FDG(p.model, NULL, w, low=1.0)), SCALES),
    "MAMBO-G": Way(lambda p, w: reverse(MAMBOG(p.model, NULL, w, 2.0)), SCALES),
    "Rectified-CFG++": Way(
        lambda p, w: RectifiedCFGPlusPlus(gj.Clip(p.model), NULL, w, gj.Cosine()), (0.1, 0.25, 0.5, 1.0)
    ),
    "autoguidance": Way(lambda p, w: auto(p, p.weak, w), WORSE),
    "perturbed attention": Way(lambda p, w: perturbed(p, w, attention=1.0), WORSE),
    "skipped middle": Way(lambda p, w: perturbed(p, w, skip=1.0), WORSE),
    "smoothed energy": Way(lambda p, w: perturbed(p, w, blur=3.0), WORSE),
    "clean classifier, through the model": Way(
        lambda p, w: reverse(gj.Reconstruction(unconditional(p), p.clean, w)), CLASSIFIER
    ),
    "clean classifier, MPGD": Way(lambda p, w: reverse(MPGD(unconditional(p), p.clean, w)), (0.5, 1.0, 2.0, 4.0)),
    "clean classifier, TFG": Way(
        lambda p, w: reverse(TFG(unconditional(p), p.clean, w, 0.25 * w, steps=1)), (0.5, 1.0, 2.0, 4.0)
    ),
    "best of 4": Way(lambda p, w: gj.SMC(gj.BestOf(reverse(p.model), p.clean), threshold=0.0)),
    "FK steering, 4 particles": Way(
        lambda p, w: gj.SMC(gj.Steered(gj.Clip(p.model), gj.DDIM(1.0), p.clean, w)), (0.25, 0.5, 1.0, 2.0)
    ),
}
CURVES = (
    "classifier, score form",
    "classifier, mean form",
    "classifier on the conditional model",
    "CFG",
    "CFG, interval",
    "APG",
    "CFG++",
    "autoguidance",
    "FK steering, 4 particles",
)
PARTICLES = 4


def flops(network, *args) -> float:
    """Floating-point operations of one evaluation."""
    found = jax.jit(network.apply).lower(network.params, *args).compile().cost_analysis()
    return float((found[0] if isinstance(found, list) else found)["flops"])


def cost(method, parts, weights, steps) -> tuple[float, dict]:
    """Evaluations per sample, in units of the model's, and the ledger behind them."""
    tiny = parts.tiny()
    names = dict(zip(("model", "weak", "classifier", "clean"), tiny, strict=True))
    kernel = METHODS[method].make(tiny, jnp.float32(1.0))
    population = isinstance(kernel, gj.SMC)
    shape = (PARTICLES, *SHAPE) if population else SHAPE
    found = ledger(kernel, levels(steps), shape, np.int32(3), names)
    total = sum(n * weights.get(name, 1.0) for part in found for name, n in part.items())
    return total, {"calls": found.calls, "gradients": found.gradients}


def levels(steps):
    return gj.Cosine().levels(steps)


def affordable(method, parts, weights, budget) -> tuple[int, float, dict] | None:
    """The most steps whose cost is within the budget; None if those are fewer than three."""
    per_step = cost(method, parts, weights, 24)[0] / 24
    steps = max(2, int(budget / per_step) + 2)
    while steps > 2:
        total, counts = cost(method, parts, weights, steps)
        if total <= budget:
            return steps, total, counts
        steps -= 1
    return None


def family(way, parts, n, steps, evaluations, counts) -> Family:
    labels = np.arange(n, dtype=np.int32) % 10

    def draw(seed, strength):
        kernel, ks = way.make(parts, jnp.float32(strength)), gj.keys(seed, n)
        if isinstance(kernel, gj.SMC):
            return np.asarray(gj.populations(ks, kernel, levels(steps), SHAPE, PARTICLES, labels).best())
        return np.asarray(gj.generate(ks, kernel, levels(steps), SHAPE, labels))

    return Family(draw, way.strengths, {"steps": steps, "evaluations": evaluations, **counts})


@benchmark(quick={"n": 4, "budget": 6, "only": ("CFG",)}, schedule="cosine", **DRAWN)
def quality(
    data: Path = DATA,
    folder: Path = MODELS,
    n: int = 200,
    budget: int = 20,
    width: int = RECIPE.width,
    only: tuple[str, ...] = tuple(METHODS),
    chosen: bool = False,
    known: list = (),
) -> Iterator[Row]:
    """Which guidance of images (Fashion-MNIST, 28 x 28) is best at which cost?

    Every method gets the same budget of network evaluations per sample and takes as many steps as it can afford: an
    evaluation of another network counts by its floating-point operations, a pull-back to the input as one evaluation
    more. Its strength is the one of lowest Frechet distance under a validation judge against one half of the held-out
    images; another judge reports on other seeds, `n` samples of each, against the other half (`sweep.py`). `--chosen`
    reports the chosen strengths alone, no curves.
    """
    found = models(data, folder, width=width)
    parts = Parts.of(found)
    x, t, y = jnp.zeros(SHAPE), jnp.zeros(()), jnp.zeros((), jnp.int32)
    whole = flops(parts.model, x, t, y)
    weights = {
        "weak": flops(parts.weak, x, t, y) / whole,
        "classifier": flops(parts.classifier, x, t) / whole,
        "clean": flops(parts.clean, x) / whole,
    }
    for name, weight in weights.items():
        yield Row({"network": name}, {}, {"evaluations": weight})
    judges = {name: getattr(found, name) for name in ("judge", "validation", "clean")}
    how, accuracy = judging(judges, found.held_out, n)
    yield from accuracy
    families = {}
    for method in (m for m in METHODS if m in only):
        if plan := affordable(method, parts, weights, budget):
            families[method] = family(METHODS[method], parts, n, *plan)
        else:
            print(f"{method}: left out, three steps cost more than {budget} evaluations", flush=True)
    yield from sweep(families, curves=() if chosen else CURVES, known=known, **how)
