"""Why classifier guidance failed here on Fashion-MNIST, and its trade-off once mended.

    python -m benchmarks.classifier_guidance --out FILE

The diffusion model, the classifier (3,000 steps) and the judge come from `fashion.py`; an early classifier (800 steps,
as it was when guidance failed) is trained beside it. Both are examined level by level on held-out images; then each
guides the unconditional model in both forms at rising scale, over several seeds. The last table is Dhariwal & Nichol's
(arXiv 2105.05233, table 4 and figure 4): precision rises and recall falls with the scale.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import guidance_jax as gj
from benchmarks.fashion import DATA, MODELS, RECIPE, models
from benchmarks.timing import write
from guidance_jax.app.recipe import train_classifier
from guidance_jax.datasets.idx import FASHION, idx
from guidance_jax.metrics.calibration import by_level
from guidance_jax.metrics.report import evaluate

SHAPE, NULL = (28, 28, 1), 10
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

    rows, levels = [], gj.Cosine().by_ratio(ratios)
    for i, ratio in enumerate(ratios):
        found = at(jnp.asarray(data.images), jnp.asarray(data.labels), levels.at(i), jax.random.key(i))
        rows.append(
            {"ratio": ratio} | dict(zip(("cosine", "length"), (float(jnp.median(a)) for a in found), strict=True))
        )
    return rows


def draw(kernel, steps, n, seed, batch=150):
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
    parser.add_argument("--n", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 3.0, 8.0])
    args = parser.parse_args()
    found = models(args.data, args.models)
    seen = idx(args.data, names=FASHION)
    early = train_classifier(args.models / "early_classifier", seen, EARLY, progress=True)
    held_out = found.held_out.take(np.arange(3000))
    classifiers = {"800 steps": early, "3,000 steps": found.classifier}
    examined = {
        name: [r._asdict() for r in by_level(c, held_out.take(np.arange(1000)), gj.Cosine())]
        for name, c in classifiers.items()
    }
    implied = {name: against_implied(found.model, c, held_out.take(np.arange(256))) for name, c in classifiers.items()}
    print(json.dumps(examined, indent=1), json.dumps(implied, indent=1), flush=True)
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
        write(args.out, settings=settings, classifiers=examined, implied=implied, rows=rows)
        print(
            f"{name:50} {scale:4g}", {m: f"{row[m]['value']:.3f} ± {row[m]['error']:.3f}" for m in MEASURES}, flush=True
        )

    seeds = range(args.seeds)
    run("no guidance", lambda w: gj.Reverse(gj.Clip(gj.Unconditional(found.model, NULL)), gj.DDIM()), 0.0, seeds)
    forms = {
        f"{name}: {form}": kernel for name, c in classifiers.items() for form, kernel in kernels(found.model, c).items()
    }
    forms.pop("800 steps: mean form, DDPM")  # one form tells
    for name, kernel in forms.items():
        for scale in args.scales:
            run(name, kernel, scale, seeds)
    others = {
        "3,000 steps: on the conditional model": lambda w: gj.Classifier(found.model, found.classifier, w),
        "CFG": lambda w: gj.CFG(found.model, NULL, w),
    }
    run("conditional model", lambda w: gj.Reverse(gj.Clip(found.model), gj.DDIM()), 1.0, seeds)
    for name, guided in others.items():
        for scale in args.scales[1:2]:
            run(name, lambda w, guided=guided: gj.Reverse(gj.Clip(guided(w)), gj.DDIM()), scale, seeds)


if __name__ == "__main__":
    main()
