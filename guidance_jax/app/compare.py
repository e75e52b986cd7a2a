"""Compare several methods on the same seeds: one labelled picture, one table, one trade-off curve."""

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from guidance_jax.app.data import Measure
from guidance_jax.app.parts import METHODS, find
from guidance_jax.app.plan import Offer, plan
from guidance_jax.app.request import NONE, Request
from guidance_jax.core import GaussianDiffusion, Refused, Space, count_failed
from guidance_jax.files import versions
from guidance_jax.methods import CONTRAST, FLOWS, GRADIENT, KERNEL, PARTICLES, TEXT, TOKENS, Row
from guidance_jax.metrics.report import Report
from guidance_jax.operators import Downsample, Mask
from guidance_jax.pictures import contact_sheet, save_trade_off
from guidance_jax.progress import Bar
from guidance_jax.sample import keys
from guidance_jax.sharding import sample_mesh


@dataclass(frozen=True)
class Entry:
    """One method at one scale: its samples and their measures, or the reason why it was refused.

    `unused` are the names of the settings in the request that this method does not use.
    """

    name: str
    scale: float
    seconds: float
    samples: np.ndarray | None
    labels: np.ndarray | None
    not_finite: int
    report: Report | None
    refused: str | None = None
    unused: tuple[str, ...] = ()

    def title(self) -> str:
        """Return the title of this entry in the picture."""
        return self.name if self.name == NONE else f"{self.name} {self.scale:g}"

    def json(self) -> dict[str, Any]:
        """Return everything except samples and labels, for a JSON file."""
        found = {k: vars(self)[k] for k in ("name", "scale", "seconds", "not_finite", "refused")}
        return found | {"algorithm": self.name, "report": None if self.report is None else self.report.json()}


def compare_all(requests: list[Request], n: int, measure: Measure | None, batch: int) -> Iterator[Entry]:
    """Draw and measure `n` samples for each request, one after another; a refused request gives an entry too.

    `batch` samples are drawn at a time; this changes no sample.
    """
    mesh = sample_mesh()
    for request in requests:
        name = str(request.method.get("name", NONE))
        begin = time.perf_counter()
        try:
            asked = plan(request, n)
            samples = asked.pictures(asked.draw(mesh, keys(request.seed, n), np.arange(n), batch=batch))
        except Refused as error:
            yield Entry(name, request.scale, time.perf_counter() - begin, None, None, 0, None, str(error))
            continue
        seconds, bad = time.perf_counter() - begin, count_failed(samples)
        fits = measure is not None and bad < n and asked.labels.ndim == 1
        report = measure(samples, asked.labels) if measure is not None and fits else None
        yield Entry(name, request.scale, seconds, samples, asked.labels, bad, report, unused=asked.unused)


def check_any(requests: list[Request], n: int) -> None:
    """Raise `Refused` with the first reason, before anything is drawn, if every request will be refused."""
    reasons = []
    for request in requests:
        try:
            plan(request, n)
            return
        except Refused as error:
            reasons.append(f"{request.method.get('name', NONE)}: {error}")
    raise Refused(f"none of {len(requests)} can be drawn; {reasons[0] if reasons else 'there is no method'}")


def track(items: Iterable[Entry], total: int) -> Iterator[Entry]:
    """Yield `items` unchanged, with a progress bar on standard error."""
    with Bar("comparing", total, 0, "seconds") as advance:
        for i, item in enumerate(items):
            advance(i + 1, item.seconds)
            yield item


def inverse(name: str) -> bool:
    """Return whether a method needs a measurement."""
    return name != NONE and bool(find(name, METHODS, "method").needs & {"operator", "mask"})


def half_measurement(name: str, images: np.ndarray) -> dict[str, Any]:
    """Measure `images` for a method of inverse problems: every other row if it needs a mask, else half resolution."""
    if "mask" in find(name, METHODS, "method").needs:
        mask = np.zeros(images.shape[1:], np.float32)
        mask[::2] = 1
        return {"operator": Mask(mask), "std": 0.05, "observed": images * mask}
    n, h, w, c = images.shape
    return {"operator": Downsample(2), "std": 0.05, "observed": images.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))}


def every_method(models: str, dtype: str | None) -> list[str]:
    """Return the names of all methods for the samples of these models (images, tokens, ...), with "none" first."""
    space = Offer(Request(models, dtype=dtype)).model.space
    families = {"Absorbing": TOKENS, "Uniform": TOKENS, "LeftToRight": TEXT, "Patches": FLOWS, "OneBlock": FLOWS}
    own = families.get(type(space).__name__)
    taken = {CONTRAST, GRADIENT, PARTICLES, own} | ({KERNEL} if isinstance(space, GaussianDiffusion) else set())
    return [NONE, *(n for n, row in METHODS.items() if row.family in taken and fits(row, space))]


def fits(row: Row, space: Space) -> bool:
    """Return whether the class of a method takes samples of that space, and needs no network of its own."""
    return not row.own_network and isinstance(space, row.cls.takes)


def write(
    out: Path, entries: list[Entry], columns: int, about: dict[str, Any], names: tuple[str, ...] = ()
) -> list[Path]:
    """Write `comparison.json`, `comparison.png` and, with two or more measured entries, `trade_off.png` into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    files = [out / "comparison.json"]
    rows = [entry.json() for entry in entries]
    files[0].write_text(json.dumps({"about": versions() | about, "rows": rows}, indent=1, default=str) + "\n")
    drawn = [e for e in entries if e.samples is not None and e.samples.ndim == 4]
    if drawn:
        files.append(out / "comparison.png")
        sheet = {e.title(): e.samples[:columns] for e in drawn if e.samples is not None}
        asked = [e.labels[:columns].reshape(-1).tolist() for e in drawn if e.labels is not None]
        same = asked[0] if all(labels == asked[0] for labels in asked) else None
        heads = None if same is None else [names[i][:6] if i < len(names) else str(i) for i in same]
        contact_sheet(files[-1], sheet, heads)
    measured = [row for row in rows if row["report"]]
    if len(measured) > 1:
        files.append(out / "trade_off.png")
        save_trade_off(files[-1], measured)
    jax.clear_caches()  # each method has left a compiled program
    return files
