"""What do more particles buy?  python -m benchmarks.particle_count --out FILE

The twisted diffusion sampler's experiment (Wu et al. 2023, arXiv 2306.17775, figure 2: MNIST) on Fashion-MNIST: the
unconditional model of `learned.py`, steered towards a class by a classifier of clean images, by 2 to 8 particles;
beside them reconstruction guidance, one sample without weights, best-of-n, which weighs unguided samples by the same
classifier, and trees that it grows. Another judge says how often the class was met, with bootstrap errors. Rows that
FILE has are kept.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import guidance_jax as gj
from benchmarks.fashion import DATA, MODELS, denoiser, judges
from benchmarks.learned import BASE, NULL, SCHEDULE, SHAPE
from benchmarks.quality import clean_logits
from benchmarks.sweep import estimates
from benchmarks.timing import kept, write
from guidance_jax.datasets.idx import FASHION, idx
from guidance_jax.guidance import CleanClassifier


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--out", type=Path, default=Path("particle_count.json"))
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--particles", type=int, nargs="+", default=[2, 4, 8])
    args = parser.parse_args()
    seen = idx(args.data, names=FASHION)
    model = gj.Unconditional(denoiser(seen, args.models, BASE.width), NULL)
    both = judges(args.data, args.models)
    twist = CleanClassifier(
        both["validation"].params, partial(clean_logits, both["validation"].apply), gj.Domain(SHAPE, num_classes=10)
    )
    levels, labels = SCHEDULE.levels(args.steps), np.arange(args.n, dtype=np.int32) % 10
    settings = {k: v for k, v in vars(args).items() if k in ("n", "steps")}
    solver, rows = gj.DDIM(1.0), kept(args.out, settings).get("rows", [])
    done = {(r["method"], r["particles"]) for r in rows}

    def row(method, n, x, ess, calls, seconds):
        right = both["judge"](np.asarray(x))[0] == labels
        guide = both["validation"](np.asarray(x))[0] == labels
        found = estimates(lambda i: {"accuracy": right[i].mean(), "guide": guide[i].mean()}, args.n, 200)
        rows.append(
            {"method": method, "particles": n, "calls": calls, "ess": ess, "seconds": round(seconds, 1), **found}
        )
        print(rows[-1], flush=True)
        write(args.out, settings=settings, rows=rows)

    for name, kernel, calls in (
        ("no guidance", gj.Reverse(gj.Clip(model), solver), 1),
        ("reconstruction guidance", gj.Reverse(gj.Reconstruction(gj.Clip(model), twist, 1.0), solver), 3),
    ):
        if (name, 1) in done:
            continue
        begin = time.perf_counter()
        x = gj.generate(gj.keys(0, args.n), kernel, levels, SHAPE, labels)
        row(name, 1, x, None, calls * args.steps, time.perf_counter() - begin)
    best_of = gj.BestOf(gj.Reverse(gj.Clip(model), solver), twist)
    moves = {
        "twisted": (gj.populations, gj.SMC(gj.Twisted(gj.Clip(model), solver, twist)), 3),
        "best of": (gj.populations, gj.SMC(best_of, threshold=0.0), 1),
        "tree of": (gj.search.trees, best_of, 1),
    }
    for name, (run, move, calls) in moves.items():
        for n in [n for n in args.particles if (name, n) not in done]:
            begin = time.perf_counter()
            found = run(gj.keys(0, args.n), move, levels, SHAPE, n, labels)
            x, ess = found.draw(jax.random.key(1)), float(jnp.mean(found.ess[:, -1]) / n)
            row(name, n, x, ess, calls * n * args.steps, time.perf_counter() - begin)


if __name__ == "__main__":
    main()
