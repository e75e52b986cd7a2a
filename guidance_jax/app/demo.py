"""`guidance-jax demo`: train on real digits, guide at several scales in three ways, measure, draw."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from guidance_jax.app.models import schedule_of
from guidance_jax.app.plan import plan
from guidance_jax.app.recipe import DEFAULT, Recipe, train
from guidance_jax.app.request import Request
from guidance_jax.datasets.digits import digits
from guidance_jax.files import versions
from guidance_jax.metrics.report import Report, evaluate
from guidance_jax.pictures import save_grid, save_trade_off
from guidance_jax.sample import generate, keys

NAMES = {"score": "Classifier", "mean": "MeanShift", "cfg": "CFG"}
SCALES = (0.0, 1.0, 2.0, 5.0, 10.0)


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
    model, _, judge = train(out / "models", seen, recipe, progress=progress)
    schedule = schedule_of(model)
    labels = np.arange(samples, dtype=np.int32) % 10
    rows, grids = [], {}
    for algorithm in NAMES:
        for scale in SCALES:
            begin = time.perf_counter()
            request = Request(str(out / "models"), {"name": NAMES[algorithm]}, scale=scale, steps=str(steps))
            asked = plan(request, samples)
            images = np.asarray(generate(keys(0, samples), asked.kernel, asked.levels, seen.shape, labels))
            seconds = time.perf_counter() - begin
            rows.append(Row(algorithm, scale, evaluate(images, labels, held_out, judge), seconds))
            grids[algorithm, scale] = images
    for algorithm in NAMES:
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
