"""Which guidance is best at which cost? Fashion-MNIST, 28 x 28:  python benchmarks/quality.py --out FILE

Every method gets the same budget of network evaluations per sample and takes as many steps as it can afford: an
evaluation of another network counts by its floating-point operations, a pull-back to the input as one evaluation more.
The judge has seen neither guide nor samples. `--table FILE` prints a result as `docs/benchmarks.md` has it.
"""

import argparse
import dataclasses
import json
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from fashion import DATA, MODELS, Fashion, models

import guidance_jax as gj
from guidance_jax.datasets.images import Images
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
from guidance_jax.metrics.report import evaluate

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


METHODS: dict[str, Callable[[Parts], Any]] = {
    "conditional model, DDIM": lambda p: reverse(p.model),
    "conditional model, DPM-Solver++(2M)": lambda p: reverse(p.model, gj.DPMSolver2M()),
    "classifier, score form": lambda p: reverse(gj.Classifier(unconditional(p), p.classifier, 3.0)),
    "classifier, mean form": lambda p: gj.MeanShift(gj.Clip(unconditional(p)), gj.DDPM(), p.classifier, 3.0),
    "classifier on the conditional model": lambda p: reverse(gj.Classifier(p.model, p.classifier, 1.0)),
    "classifier, gradient reused 4 steps": lambda p: reverse(
        Reuse(gj.Classifier(unconditional(p), p.classifier, 3.0), 4)
    ),
    "classifier, split, 2M": lambda p: Split(gj.Clip(unconditional(p)), gj.DPMSolver2M(), p.classifier, 3.0),
    "CFG": lambda p: reverse(gj.CFG(p.model, NULL, 2.0)),
    "CFG, 2M": lambda p: reverse(gj.CFG(p.model, NULL, 2.0), gj.DPMSolver2M()),
    "CFG, interval": lambda p: reverse(gj.CFG(p.model, NULL, gj.Window(2.5, 0.3, 5.0))),
    "CFG, ramp": lambda p: reverse(gj.CFG(p.model, NULL, Ramp(2.0))),
    "CFG, rescaled": lambda p: reverse(Rescale(p.model, NULL, 2.5, 0.7)),
    "APG": lambda p: reverse(APG(p.model, NULL, 3.0, 0.0, -0.5, 5.0)),
    "CFG++": lambda p: reverse(CFGPlusPlus(p.model, NULL, 0.6)),
    "CFG-Zero*": lambda p: reverse(CFGZeroStar(p.model, NULL, 2.0)),
    "TCFG": lambda p: reverse(TCFG(p.model, NULL, 2.0)),
    "FDG": lambda p: reverse(FDG(p.model, NULL, 2.5, low=1.3)),
    "MAMBO-G": lambda p: reverse(MAMBOG(p.model, NULL, 3.0, 2.0)),
    "Rectified-CFG++": lambda p: RectifiedCFGPlusPlus(gj.Clip(p.model), NULL, 1.0, gj.Cosine()),
    "autoguidance": lambda p: reverse(gj.Autoguidance(p.model, p.weak, 1.6)),
    "perturbed attention": lambda p: reverse(
        gj.Autoguidance(p.model, gj.guidance.perturbed(p.model, attention=1.0), 2.0)
    ),
    "skipped middle": lambda p: reverse(gj.Autoguidance(p.model, gj.guidance.perturbed(p.model, skip=1.0), 2.0)),
    "smoothed energy": lambda p: reverse(gj.Autoguidance(p.model, gj.guidance.perturbed(p.model, blur=3.0), 2.0)),
    "clean classifier, through the model": lambda p: reverse(gj.Reconstruction(unconditional(p), p.clean, 3.0)),
    "clean classifier, MPGD": lambda p: reverse(MPGD(unconditional(p), p.clean, 1.0)),
    "clean classifier, TFG": lambda p: reverse(TFG(unconditional(p), p.clean, 2.0, 0.5, iters=1)),
    "best of 4": lambda p: gj.SMC(gj.BestOf(reverse(p.model), p.clean), threshold=0.0),
    "FK steering, 4 particles": lambda p: gj.SMC(gj.Steered(gj.Clip(p.model), gj.DDIM(1.0), p.clean, 1.0)),
}
PARTICLES = 4


def flops(network, *args) -> float:
    """Floating-point operations of one evaluation."""
    found = jax.jit(network.apply).lower(network.params, *args).compile().cost_analysis()
    return float((found[0] if isinstance(found, list) else found)["flops"])


def cost(method, parts, weights, steps) -> tuple[float, dict]:
    """Evaluations per sample, in units of the model's, and the ledger behind them."""
    tiny = parts.tiny()
    names = dict(zip(("model", "weak", "classifier", "clean"), tiny, strict=True))
    kernel = METHODS[method](tiny)
    population = isinstance(kernel, gj.SMC)
    shape = (PARTICLES, *SHAPE) if population else SHAPE
    found = ledger(kernel, levels(steps), shape, np.int32(3), names)
    total = sum(n * weights.get(name, 1.0) for part in found for name, n in part.items())
    return total, {"calls": found.calls, "gradients": found.gradients}


def levels(steps):
    return gj.Cosine().levels(steps)


def affordable(method, parts, weights, budget) -> tuple[int, float, dict]:
    """The most steps whose cost is within the budget."""
    per_step = cost(method, parts, weights, 24)[0] / 24
    steps = max(2, int(budget / per_step) + 2)
    while steps > 2:
        total, counts = cost(method, parts, weights, steps)
        if total <= budget:
            return steps, total, counts
        steps -= 1
    raise ValueError(f"{method} cannot take three steps for {budget} evaluations; raise the budget")


def draw(kernel, steps, n, batch):
    """n samples of all classes in turn, and seconds without compilation."""
    labels = np.arange(n, dtype=np.int32) % 10
    population = isinstance(kernel, gj.SMC)

    def one(i):
        own, ks = jnp.asarray(labels[i : i + batch]), gj.keys(0, batch, start=i)
        if population:
            return gj.populations(ks, kernel, levels(steps), SHAPE, PARTICLES, own).best()
        return gj.generate(ks, kernel, levels(steps), SHAPE, own)

    jax.block_until_ready(one(0))
    begin = time.perf_counter()
    images = np.concatenate([np.asarray(one(i)) for i in range(0, n, batch)])
    return images, labels, time.perf_counter() - begin


def table(result: dict) -> str:
    """The table of `docs/benchmarks.md`: a line a method, a value a budget, nearest at the largest first."""
    budgets = sorted(result["settings"]["budgets"])
    rows = {(r["method"], r["budget"]): r for r in result["rows"]}
    methods = [m for m in dict.fromkeys(m for m, _ in rows) if all((m, b) in rows for b in budgets)]
    methods.sort(key=lambda m: rows[m, budgets[-1]]["frechet"]["value"])
    lines = ["| method | steps | accuracy | Frechet | precision | recall | diversity | s |", "|---" * 8 + "|"]
    measures = ("accuracy", "frechet", "precision", "recall", "diversity")
    for method in methods:
        each = [rows[method, b] for b in budgets]
        cells = [[f"{r[k]['value']:.2f}" for r in each] for k in measures]
        cells = [[str(r["steps"]) for r in each], *cells, [f"{r['seconds']:.0f}" for r in each]]
        lines.append(f"| {method} | {' | '.join(' / '.join(c) for c in cells)} |")
    for budget in budgets:
        own = [rows[m, budget] for m in methods]
        nearest = min(own, key=lambda r: r["frechet"]["value"])["method"]
        right = max(own, key=lambda r: r["accuracy"]["value"])["method"]
        both = [r for r in own if r["accuracy"]["value"] >= 0.9]
        best = min(both, key=lambda r: r["frechet"]["value"])["method"] if both else "none"
        lines.append(
            f"\nAt {budget} evaluations a sample: nearest to the data {nearest}; most accurate {right}; "
            f"nearest of those above 90 % accuracy **{best}**."
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--out", type=Path, default=Path("quality.json"))
    parser.add_argument("--table", type=Path, help="print a result and stop")
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--batch", type=int, default=125)
    parser.add_argument("--budgets", type=int, nargs="+", default=[20, 50])
    parser.add_argument("--held-out", type=int, default=3000)
    args = parser.parse_args()
    if args.table:
        print(table(json.loads(args.table.read_text())))
        return
    found = models(args.data, args.models)
    held_out = Images(
        *(a[: args.held_out] for a in (found.held_out.images, found.held_out.labels)), found.held_out.names
    )
    parts = Parts.of(found)
    x, t, y = jnp.zeros(SHAPE), jnp.zeros(()), jnp.zeros((), jnp.int32)
    whole = flops(parts.model, x, t, y)
    weights = {
        "weak": flops(parts.weak, x, t, y) / whole,
        "classifier": flops(parts.classifier, x, t) / whole,
        "clean": flops(parts.clean, x) / whole,
    }
    about = {"jax": jax.__version__, "python": platform.python_version(), "device": str(jax.devices()[0])}
    settings = {
        "n": args.n,
        "budgets": args.budgets,
        "weights": weights,
        "held_out": len(held_out),
        "schedule": "cosine",
    }
    # written after every row and read again, so that an interrupted run goes on
    result = {"about": about, "settings": settings, "rows": []}
    if args.out.exists() and (old := json.loads(args.out.read_text()))["settings"] == settings:
        result = old
    done = {(r["method"], r["budget"]) for r in result["rows"]}
    for budget in args.budgets:
        for method, make in METHODS.items():
            if (method, budget) in done:
                continue
            steps, evaluations, counts = affordable(method, parts, weights, budget)
            images, labels, seconds = draw(make(parts), steps, args.n, args.batch)
            report = evaluate(images, labels, held_out, found.judge, repeats=20).json()
            row = {"method": method, "budget": budget, "steps": steps, "evaluations": evaluations, "seconds": seconds}
            result["rows"].append(row | counts | report)
            args.out.write_text(json.dumps(result, indent=1) + "\n")
            short = {
                k: round(report[k]["value"], 3) for k in ("accuracy", "frechet", "precision", "recall", "diversity")
            }
            print(f"{budget:4} {steps:3} {seconds:5.0f} s  {method:40} {short}", flush=True)
    print(table(result))


if __name__ == "__main__":
    main()
