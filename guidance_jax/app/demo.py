"""`guidance-jax demo`: guide a trained model in three ways at several scales; write measures, pictures and a page."""

import html
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from guidance_jax.app.models import schedule_of
from guidance_jax.app.recipe import Recipe, train
from guidance_jax.datasets.digits import digits
from guidance_jax.datasets.images import Images
from guidance_jax.files import versions, write_whole
from guidance_jax.guidance import CFG, Classifier, Clip
from guidance_jax.kernels import MeanShift, Reverse
from guidance_jax.metrics.report import Report, evaluate
from guidance_jax.models import Network, NoisyClassifier, Unconditional
from guidance_jax.pictures import contact_sheet, save_trade_off
from guidance_jax.sample import generate, keys
from guidance_jax.solvers import DDIM, DDPM
from guidance_jax.zoo.examples import Example, fashion
from guidance_jax.zoo.networks import save

SCALES = (0.0, 1.0, 3.0, 5.0, 8.0)
WAYS = {
    "cfg": "classifier-free guidance",
    "score": "classifier guidance, score form (Dhariwal & Nichol's Algorithm 2)",
    "mean": "classifier guidance, mean form (their Algorithm 1)",
}


@dataclass(frozen=True)
class Row:
    """One line of the demo's table."""

    algorithm: str
    scale: float
    report: Report
    seconds: float


def kernels(model: Network, classifier: NoisyClassifier) -> dict[str, Callable[[float], Any]]:
    """Return a function scale -> kernel for each way. At scale 0 all three sample the unconditional model."""
    assert model.domain is not None
    null = model.domain.null_label
    free = Unconditional(model, null)
    return {
        "cfg": lambda scale: Reverse(Clip(CFG(model, null, scale)), DDIM()),
        "score": lambda scale: Reverse(Clip(Classifier(free, classifier, scale)), DDIM()),
        "mean": lambda scale: MeanShift(Clip(free), DDPM(), classifier, scale),
    }


def load_shipped(out: Path) -> Example:
    """Load the shipped model of Fashion-MNIST, classifier, judge and held-out images; save the first two in `out`."""
    found = fashion()
    for name, network in (("denoiser", found.model), ("classifier", found.classifier)):
        if not (out / name).exists():
            save(out / name, network)
    names = json.dumps({"classes": found.held_out.names}).encode()
    write_whole(out / "data.json", lambda file: file.write(names))
    return found


def train_digits(out: Path, recipe: Recipe) -> Example:
    """Train the same networks on handwritten digits from scratch into `out`, or load them from there."""
    seen, held_out = digits().split()
    return Example(*train(out, seen, recipe, progress=True), held_out)


def demo(
    out: Path, *, recipe: Recipe | None = None, samples: int = 40, steps: int = 15, scales: tuple[float, ...] = SCALES
) -> Iterator[Row]:
    """Draw samples with each way at each scale, and yield the measures of each as soon as they are known.

    After the last scale of a way its picture is written into `out`; at the end trade_off.png, results.json, index.html.

    Args:
      out: the folder for the results and the models.
      recipe: the recipe by which models of digits are trained; None uses the model that ships.
      samples: the number of samples for each way and scale.
      steps: solver steps.
      scales: the guidance scales.
    """
    example = load_shipped(out / "models") if recipe is None else train_digits(out / "models", recipe)
    held_out, schedule = example.held_out, schedule_of(example.model)
    labels, levels = np.arange(samples, dtype=np.int32) % len(held_out.names), schedule.levels(steps)
    rows = []
    for way, make in kernels(example.model, example.classifier).items():
        drawn = {}
        for scale in scales:
            begin = time.perf_counter()
            images = np.asarray(generate(keys(0, samples), make(scale), levels, held_out.shape, labels))
            seconds = time.perf_counter() - begin
            drawn[f"scale {scale:g}"] = images[: len(held_out.names)]
            rows.append(Row(way, scale, evaluate(images, labels, held_out, example.judge), seconds))
            yield rows[-1]
        contact_sheet(out / f"{way}.png", drawn, [name[:12] for name in held_out.names], side=84)
    finish(out, rows, held_out, {"samples": samples, "steps": steps, "schedule": str(schedule)})


def finish(out: Path, rows: list[Row], held_out: Images, settings: dict[str, Any]) -> None:
    """Write trade_off.png, results.json and index.html into `out`."""
    records = [vars(row) | {"report": row.report.json()} for row in rows]
    save_trade_off(out / "trade_off.png", records)
    about = versions() | settings | {"classes": held_out.names, "convention": "scale 0 unconditional, 1 conditional"}
    (out / "results.json").write_text(json.dumps({"about": about, "rows": records}, indent=1) + "\n")
    (out / "index.html").write_text(page(rows, held_out.names))


def page(rows: list[Row], names: tuple[str, ...]) -> str:
    """Return the page with all pictures and measures, as HTML."""
    head = "<tr><th>way<th>scale<th>accuracy<th>diversity<th>Frechet distance<th>precision<th>recall</tr>"
    lines = [
        "".join(f"<td>{cell}" for cell in (row.algorithm, f"{row.scale:g}", *map(html.escape, cells(row.report))))
        for row in rows
    ]
    pictures = [
        f'<h2>{html.escape(WAYS[way])}</h2><img src="{way}.png" alt="a row a scale, a column a class">'
        for way in dict.fromkeys(row.algorithm for row in rows)
    ]
    style = "body{font:16px sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}img{max-width:100%}"
    style += "table{border-collapse:collapse}td,th{padding:.2rem .8rem;border-bottom:1px solid #ccc;text-align:left}"
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>guidance_jax demo</title><style>{style}</style>
<h1>One model, guided in three ways</h1>
<p>Each column is a class that was asked for: {html.escape(", ".join(names))}. Each row is a guidance scale, always
from the same noise. At scale 0 the model ignores the class; at 1 it samples the class; above 1 it exaggerates what is
typical of the class, and pictures become clearer and more alike.</p>
{"".join(pictures)}
<h2>Measured</h2>
<p>Accuracy: the share that an independent classifier takes for the class asked for. Diversity: the mean distance of two
pictures of one class. Frechet distance, precision and recall: against held-out pictures, in that classifier's
features.</p>
<table>{head}{"".join(f"<tr>{line}</tr>" for line in lines)}</table>
<h2>Fidelity against diversity</h2><img src="trade_off.png" alt="a curve a way, a point a scale">
</html>
"""


def cells(report: Report) -> list[str]:
    """Format the measures with two decimals."""
    measures = report.accuracy, report.diversity, report.frechet, report.precision, report.recall
    return [f"{m.value:.2f} ± {m.error:.2f}" for m in measures]
