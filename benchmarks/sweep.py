"""What the comparisons of images, tokens and text share: strengths chosen on one seed, reported on others, with errors.

Each method is drawn at every strength from a validation seed and judged by a validation judge; the strength that does
best there is drawn again from three other seeds and judged by another judge. Methods of the trade-off curve are
reported at all strengths. Errors are bootstrap standard errors over the pooled samples of the seeds.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import guidance_jax as gj
from benchmarks.timing import kept
from table import Method, versions

VALIDATION, SEEDS = 100, (0, 1, 2)
Measures = Mapping[str, float]


class Family(NamedTuple):
    """A method: `draw(seed, strength)` gives samples (n, ...); `cost` says what one of them needs."""

    draw: Callable[[int, float], np.ndarray]
    strengths: tuple[float, ...]
    cost: dict[str, Any]


def family(method: Method, samples: int, strengths: tuple[float, ...] | None = None) -> Family:
    """A method of a demo's table, `samples` of a seed."""
    calls = dict(zip(("model calls", "classifier calls"), method.calls, strict=True))
    draw = lambda seed, strength: np.array(method.draw(gj.keys(seed, samples), strength))  # noqa: E731
    return Family(draw, strengths or method.scales, calls)


def estimates(summary: Callable[[np.ndarray], Measures], n: int, repeats: int = 30) -> dict[str, dict]:
    """{measure: {value, error}} of `summary(rows)`, rows drawn again `repeats` times."""
    rng = np.random.default_rng(0)
    found = summary(np.arange(n))
    again = [summary(rng.integers(n, size=n)) for _ in range(repeats)]
    return {k: {"value": float(v), "error": float(np.nanstd([a[k] for a in again]))} for k, v in found.items()}


def sweep(
    out: Path,
    families: Mapping[str, Family],
    *,
    validate: Callable[[str, np.ndarray], tuple[float, Measures]],
    report: Callable[[np.ndarray], dict[str, dict]],
    curves: Iterable[str],
    **settings: Any,
) -> dict:
    """Fill `out` row by row, going on where it was interrupted.

    Args:
      validate: a method's name and its samples of one seed -> (objective, measures); the lowest objective is chosen,
        inf only where all are.
      report: samples of all seeds in turn -> {measure: {value, error}}.
      curves: methods that are reported at every strength.
    """
    settings |= {"validation seed": VALIDATION, "seeds": list(SEEDS)}
    result = kept(out, settings) or {"about": versions(), "settings": settings, "rows": []}
    rows = {(r["method"], r["strength"]): r for r in result["rows"]}

    def save():
        result["rows"] = list(rows.values())
        out.write_text(json.dumps(result, indent=1) + "\n")

    for name, family in families.items():
        for strength in family.strengths:
            if (name, strength) in rows:
                continue
            begin = time.perf_counter()
            objective, measures = validate(name, family.draw(VALIDATION, strength))
            row = {"method": name, "strength": strength, **family.cost, "validation": dict(measures)}
            rows[name, strength] = row | {"objective": None if np.isinf(objective) else float(objective)}
            save()
            say(name, strength, time.perf_counter() - begin, "validation", measures)
        own = [r for (method, _), r in rows.items() if method == name]
        for row in own if name in curves else [best(own)]:
            if "report" not in row:
                begin = time.perf_counter()
                row["report"] = report(np.concatenate([np.asarray(family.draw(s, row["strength"])) for s in SEEDS]))
                row["seconds"] = round(time.perf_counter() - begin, 1)
                save()
                values = {k: v["value"] for k, v in row["report"].items()}
                say(name, row["strength"], row["seconds"], "report", values)
    return result


def say(name, strength, seconds, what, measures):
    rounded = {k: round(float(v), 3) for k, v in measures.items()}
    print(f"{name:44} {strength:6g} {seconds:5.0f} s {what:10}", rounded, flush=True)


def best(rows: list[dict]) -> dict:
    """The row whose strength the validation judge chooses; the first where it admits none."""
    return min(rows, key=lambda r: np.inf if r["objective"] is None else r["objective"])


def chosen(result: dict) -> list[dict]:
    """A row a method, at its chosen strength."""
    methods: dict[str, list[dict]] = {}
    for row in result["rows"]:
        methods.setdefault(row["method"], []).append(row)
    return [found for rows in methods.values() if "report" in (found := best(rows))]


def tied(rows: list[dict], goal: str, lower: bool) -> tuple[list[dict], int]:
    """The rows from the best on, and how many of them differ from it by less than twice the error of the difference."""
    rows = sorted(rows, key=lambda r: r["report"][goal]["value"] * (1 if lower else -1))
    first = rows[0]["report"][goal]

    def close(row):
        own = row["report"][goal]
        return abs(own["value"] - first["value"]) <= 2 * np.hypot(own["error"], first["error"])

    return rows, sum(map(close, rows))


def told(estimate: Mapping[str, float]) -> str:
    value, error = estimate["value"], estimate["error"]
    return f"{value:,.0f} ± {error:,.0f}" if abs(value) >= 100 else f"{value:.3g} ± {error:.1g}"


def table(result: dict, goal: str, lower: bool, measures: dict[str, str], cost: Callable[[dict], str]) -> str:
    """Markdown: the best first, ties with it marked."""
    rows, ties = tied(chosen(result), goal, lower)
    lines = [
        "| | method | strength | " + " | ".join(measures.values()) + " | cost |",
        "|---" * (len(measures) + 4) + "|",
    ]
    for i, row in enumerate(rows):
        cells = [told(row["report"][measure]) for measure in measures]
        mark = "" if i >= ties else "best" if ties == 1 else "tie"
        lines.append(f"| {mark} | {row['method']} | {row['strength']:g} | {' | '.join(cells)} | {cost(row)} |")
    return "\n".join(lines)


def plot(result: dict, path: Path, x: tuple[str, str], y: tuple[str, str], methods: Iterable[str]):
    """A line a method with error bars, a ring where its chosen strength is; methods without a curve as grey dots. The
    horizontal axis is logarithmic where it spans more than a factor of twenty."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    figure, axis = plt.subplots(figsize=(10, 5.2), layout="constrained")
    methods = list(methods)
    colours = plt.get_cmap("tab20")
    picked = {r["method"]: r for r in chosen(result)}

    def points(rows, measure):
        return [[r["report"][measure][k] for r in rows] for k in ("value", "error")]

    for i, name in enumerate(methods):
        rows = [r for r in result["rows"] if r["method"] == name and "report" in r]
        rows.sort(key=lambda r: r["strength"])
        (xs, dx), (ys, dy) = points(rows, x[0]), points(rows, y[0])
        style = "-" if len(rows) > 1 else "none"
        axis.errorbar(
            xs, ys, dy, dx, color=colours(i % 20), marker="o", ms=3, lw=1.2, elinewidth=0.7, ls=style, label=name
        )
        if name in picked:
            values = picked[name]["report"]
            axis.plot(values[x[0]]["value"], values[y[0]]["value"], "o", ms=10, mfc="none", mec=colours(i % 20))
    others = [r for r in picked.values() if r["method"] not in methods]
    if others:
        (xs, dx), (ys, dy) = points(others, x[0]), points(others, y[0])
        axis.errorbar(xs, ys, dy, dx, color="0.6", marker=".", ls="none", elinewidth=0.6, label="the other methods")
    reported = [r["report"][x[0]]["value"] for r in result["rows"] if "report" in r]
    if max(reported) > 20 * max(min(reported), 1e-9):
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel(x[1])
    axis.set_ylabel(y[1])
    axis.grid(alpha=0.2)
    figure.legend(fontsize=7, loc="outside right upper")
    figure.savefig(path, dpi=130)
    plt.close(figure)
