"""What the comparisons of images, tokens and text share: strengths chosen on one seed, reported on others, with errors.

Each method is drawn at every strength from a validation seed and judged by a validation judge; the strength that does
best there is drawn again from three other seeds and judged by another judge. Methods of the trade-off curve are
reported at all strengths. Errors are bootstrap standard errors over the pooled samples of the seeds.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import guidance_jax as gj
from benchmarks.suite import Row
from table import Method

VALIDATION, SEEDS = 100, (0, 1, 2)
DRAWN = {"validation seed": VALIDATION, "seeds": list(SEEDS)}  # of the settings of all comparisons
CHOOSING, REPORTED = "to choose", "to report"
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
    families: Mapping[str, Family],
    *,
    validate: Callable[[str, np.ndarray], tuple[float, Measures]],
    report: Callable[[np.ndarray], dict[str, dict]],
    curves: Iterable[str],
    known: list[dict],
) -> Iterator[Row]:
    """Rows of what was drawn to choose a strength, and of what is reported at it.

    Args:
      validate: a method's name and its samples of one seed -> (objective, measures); the lowest objective is chosen,
        inf only where all are.
      report: samples of all seeds in turn -> {measure: {value, error}}.
      curves: methods that are reported at every strength.
      known: rows of the file, which are not drawn again.
    """
    objectives = {at(row): row["measures"]["objective"]["value"] for row in drawn(known, CHOOSING)}
    reported = {at(row) for row in drawn(known, REPORTED)}
    for name, family in families.items():
        for strength in family.strengths:
            if (name, strength) in objectives:
                continue
            objective, measures = validate(name, family.draw(VALIDATION, strength))
            objectives[name, strength] = None if np.isinf(objective) else float(objective)
            case = {"method": name, "strength": strength, "drawn": CHOOSING}
            yield Row(case, {**measures, "objective": objectives[name, strength]}, family.cost)
        strengths = family.strengths if name in curves else [best(name, objectives)]
        for strength in strengths:
            if (name, strength) in reported:
                continue
            begin = time.perf_counter()
            measures = report(np.concatenate([np.asarray(family.draw(s, strength)) for s in SEEDS]))
            cost = {**family.cost, "seconds": round(time.perf_counter() - begin, 1)}
            yield Row({"method": name, "strength": strength, "drawn": REPORTED}, measures, cost)


def drawn(rows: list[dict], what: str) -> list[dict]:
    """The rows drawn to choose, or to report."""
    return [row for row in rows if row["case"].get("drawn") == what]


def at(row: dict) -> tuple[str, float]:
    return row["case"]["method"], row["case"]["strength"]


def best(name: str, objectives: Mapping[tuple[str, float], float | None]) -> float:
    """The strength of a method that the validation judge chooses; the first where it admits none."""
    own = {strength: value for (method, strength), value in objectives.items() if method == name}
    return min(own, key=lambda strength: np.inf if own[strength] is None else own[strength])


def chosen(result: dict) -> list[dict]:
    """The reported row of each method at its chosen strength."""
    objectives = {at(row): row["measures"]["objective"]["value"] for row in drawn(result["rows"], CHOOSING)}
    reported = {at(row): row for row in drawn(result["rows"], REPORTED)}
    methods = dict.fromkeys(name for name, _ in objectives)
    pairs = [(name, best(name, objectives)) for name in methods]
    return [reported[pair] for pair in pairs if pair in reported]


def tied(rows: list[dict], goal: str, lower: bool) -> tuple[list[dict], int]:
    """The rows from the best on, and how many of them differ from it by less than twice the error of the difference."""
    rows = sorted(rows, key=lambda r: r["measures"][goal]["value"] * (1 if lower else -1))
    first = rows[0]["measures"][goal]

    def close(row):
        own = row["measures"][goal]
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
        cells = [told(row["measures"][measure]) for measure in measures]
        mark = "" if i >= ties else "best" if ties == 1 else "tie"
        case, last = row["case"], cost(row["cost"])
        lines.append(f"| {mark} | {case['method']} | {case['strength']:g} | {' | '.join(cells)} | {last} |")
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
    picked, reported = {r["case"]["method"]: r for r in chosen(result)}, drawn(result["rows"], REPORTED)

    def points(rows, measure):
        return [[r["measures"][measure][k] for r in rows] for k in ("value", "error")]

    for i, name in enumerate(methods):
        rows = sorted((r for r in reported if r["case"]["method"] == name), key=lambda r: r["case"]["strength"])
        (xs, dx), (ys, dy) = points(rows, x[0]), points(rows, y[0])
        style = "-" if len(rows) > 1 else "none"
        axis.errorbar(
            xs, ys, dy, dx, color=colours(i % 20), marker="o", ms=3, lw=1.2, elinewidth=0.7, ls=style, label=name
        )
        if name in picked:
            values = picked[name]["measures"]
            axis.plot(values[x[0]]["value"], values[y[0]]["value"], "o", ms=10, mfc="none", mec=colours(i % 20))
    others = [r for r in picked.values() if r["case"]["method"] not in methods]
    if others:
        (xs, dx), (ys, dy) = points(others, x[0]), points(others, y[0])
        axis.errorbar(xs, ys, dy, dx, color="0.6", marker=".", ls="none", elinewidth=0.6, label="the other methods")
    across = [r["measures"][x[0]]["value"] for r in reported]
    if max(across) > 20 * max(min(across), 1e-9):
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
