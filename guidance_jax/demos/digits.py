"""`guidance-jax demo`: train on real digits, guide at several scales in three ways, measure, draw."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from guidance_jax.adapters import Unconditional
from guidance_jax.datasets.digits import digits
from guidance_jax.demos.table import versions
from guidance_jax.guidance.cfg import CFG
from guidance_jax.guidance.classifier import Classifier
from guidance_jax.guidance.clip import Clip
from guidance_jax.kernels.mean_shift import MeanShift
from guidance_jax.kernels.reverse import Reverse
from guidance_jax.metrics.report import Report, evaluate
from guidance_jax.network import Network, NoisyClassifier
from guidance_jax.pictures import save_grid, save_trade_off
from guidance_jax.sample import generate, keys
from guidance_jax.schedules import Schedule
from guidance_jax.solvers.ddim import DDIM
from guidance_jax.solvers.ddpm import DDPM
from guidance_jax.training.recipe import DEFAULT, Recipe, train


def schedule_of(model: Network | NoisyClassifier) -> Schedule:
    """The schedule that a network was trained on.

    Raises:
      ValueError: a network that does not say.
    """
    if model.domain is None or model.domain.schedule is None:
        raise ValueError("the network does not say which schedule it was trained on; give it a Domain with one")
    return model.domain.schedule


SCALES = (0.0, 1.0, 2.0, 5.0, 10.0)


def kernels(model: Network, classifier: NoisyClassifier, scale: Any) -> dict[str, Any]:
    """Guidance in three ways, as kernels: the names are those of the command line's `--algorithm`.

    Classifier guidance steers the unconditional model; the clean estimate is clipped to the images' range, after
    guidance in the score form and for CFG, before it in the mean form, which does not touch the estimate.
    """
    domain = model.domain
    if domain is None or domain.null_label is None:
        raise ValueError("guiding in all three ways needs a model with a null label; train with label_dropout > 0")
    unconditional = Unconditional(model, domain.null_label)
    return {
        "score": Reverse(Clip(Classifier(unconditional, classifier, scale)), DDIM()),
        "mean": MeanShift(Clip(unconditional), DDPM(), classifier, scale),
        "cfg": Reverse(Clip(CFG(model, domain.null_label, scale)), DDIM()),
    }


@dataclass(frozen=True)
class Row:
    """One line of the demo's table."""

    algorithm: str
    scale: float
    report: Report
    seconds: float


def demo(
    out: Path,
    *,
    recipe: Recipe = DEFAULT,
    samples: int = 150,
    steps: int = 30,
    progress: bool = True,
) -> list[Row]:
    """Train (or reuse `out`/models), sample every digit at all scales, write pictures and `results.json` to `out`."""
    seen, held_out = digits().split()
    model, classifier, judge = train(out / "models", seen, recipe, progress=progress)
    schedule = schedule_of(model)
    levels = schedule.levels(steps)
    labels = np.arange(samples, dtype=np.int32) % 10
    rows, grids = [], {}
    for algorithm in ("score", "mean", "cfg"):
        for scale in SCALES:
            begin = time.perf_counter()
            kernel = kernels(model, classifier, scale)[algorithm]
            images = np.asarray(generate(keys(0, samples), kernel, levels, seen.shape, labels))
            seconds = time.perf_counter() - begin
            rows.append(Row(algorithm, scale, evaluate(images, labels, held_out, judge), seconds))
            grids[algorithm, scale] = images
    for algorithm in ("score", "mean", "cfg"):
        # a row of digits 0 to 9 per scale, two samples of each
        images = np.concatenate([grids[algorithm, scale][:20] for scale in SCALES])
        save_grid(out / f"{algorithm}.png", images, columns=20)
    records = [vars(row) | {"report": row.report.json()} for row in rows]
    save_trade_off(out / "trade_off.png", records)
    about = versions() | {
        "data": "scikit-learn digits, 8 x 8, held-out fifth",
        "schedule": str(schedule),
        "steps": steps,
        "samples": samples,
        "convention": "scale 0 unconditional, 1 conditional",
    }
    (out / "results.json").write_text(json.dumps({"about": about, "rows": records}, indent=1))
    return rows
