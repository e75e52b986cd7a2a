"""Why classifier guidance failed here on Fashion-MNIST, and its trade-off once mended.

    python benchmarks/classifier_guidance.py --out FILE

The diffusion model, the first classifier (800 steps, as `quality.py` had it) and the judge come from `fashion.py`. A
second classifier is trained four times as long. Both are examined level by level on held-out images; then each guides
the unconditional model in both forms at rising scale, over several seeds. The last table is Dhariwal & Nichol's
(arXiv 2105.05233, table 4 and figure 4): precision rises and recall falls with the scale.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
from fashion import DATA, MODELS, RECIPE, models
from timing import write

import guidance_jax as gj
from guidance_jax.datasets.idx import FASHION, idx
from guidance_jax.metrics.calibration import by_level
from guidance_jax.metrics.report import evaluate
from guidance_jax.training.recipe import train_classifier

SHAPE, NULL = (28, 28, 1), 10
LONGER = dataclasses.replace(RECIPE, classifier_steps=3000)
MEASURES = ("accuracy", "frechet", "precision", "recall", "diversity")


def kernels(model, classifier):
    """Ways to use a classifier: name -> scale -> kernel."""
    free = gj.Unconditional(model, NULL)
    return {
        "score form, DDIM": lambda w: gj.Reverse(gj.Clip(gj.Classifier(free, classifier, w)), gj.DDIM()),
        "score form, DDPM": lambda w: gj.Reverse(gj.Clip(gj.Classifier(free, classifier, w)), gj.DDIM(1.0)),
        "mean form, DDPM": lambda w: gj.MeanShift(gj.Clip(free), gj.DDPM(), classifier, w),
    }


def draw(kernel, steps, n, seed, batch=125):
    labels = np.arange(n, dtype=np.int32) % 10
    levels = gj.Cosine().levels(steps)
    parts = [
        np.asarray(gj.generate(gj.keys(seed, batch, start=i), kernel, levels, SHAPE, labels[i : i + batch]))
        for i in range(0, n, batch)
    ]
    return np.concatenate(parts), labels


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--out", type=Path, default=Path("classifier_guidance.json"))
    parser.add_argument("--n", type=int, default=250)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--scales", type=float, nargs="+", default=[0.0, 1.0, 2.0, 4.0, 8.0])
    args = parser.parse_args()
    found = models(args.data, args.models)
    seen = idx(args.data, names=FASHION)
    longer = train_classifier(args.models / "longer_classifier", seen, LONGER, progress=True)
    held_out = found.held_out.take(np.arange(3000))
    classifiers = {"800 steps": found.classifier, "3,000 steps": longer}
    examined = {
        name: [r._asdict() for r in by_level(c, held_out.take(np.arange(1000)), gj.Cosine())]
        for name, c in classifiers.items()
    }
    print(json.dumps(examined, indent=1), flush=True)
    settings = {"n": args.n, "seeds": args.seeds, "steps": args.steps, "held_out": len(held_out)}
    rows = []

    def run(name, kernel, scale, seeds):
        reports = [evaluate(*draw(kernel(scale), args.steps, args.n, seed), held_out, found.judge) for seed in seeds]
        row = {"method": name, "scale": scale}
        for measure in MEASURES:
            values = [getattr(r, measure).value for r in reports]
            # over seeds, where there are several; else the bootstrap's
            error = (
                np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else getattr(reports[0], measure).error
            )
            row[measure] = {"value": float(np.mean(values)), "error": float(error)}
        rows.append(row)
        write(args.out, settings=settings, classifiers=examined, rows=rows)
        print(
            f"{name:50} {scale:4g}", {m: f"{row[m]['value']:.3f} ± {row[m]['error']:.3f}" for m in MEASURES}, flush=True
        )

    for name, classifier in classifiers.items():
        for form, kernel in kernels(found.model, classifier).items():
            for scale in args.scales:
                run(f"{name}: {form}", kernel, scale, range(args.seeds))
    conditional = lambda w: gj.Reverse(gj.Clip(gj.Classifier(found.model, longer, w)), gj.DDIM())  # noqa: E731
    for scale in args.scales[:4]:
        run("3,000 steps: on the conditional model", conditional, scale, range(args.seeds))
    guided = lambda w: gj.Reverse(gj.Clip(gj.CFG(found.model, NULL, w)), gj.DDIM())  # noqa: E731
    for scale in args.scales[:4]:
        run("CFG", guided, scale, range(args.seeds))


if __name__ == "__main__":
    main()
