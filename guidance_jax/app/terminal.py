"""What the commands print to, and how they print measures."""

import sys

from rich.console import Console

from guidance_jax.metrics.bootstrap import Estimate
from guidance_jax.metrics.report import Report

# as wide as its tables where nobody looks at a terminal
console = Console(width=None if sys.stdout.isatty() else 120)
COLUMNS = ("accuracy", "diversity", "Frechet distance", "precision", "recall", "not finite")


def measures_of(report: Report) -> tuple[Estimate, ...]:
    """What the first columns show."""
    return report.accuracy, report.diversity, report.frechet, report.precision, report.recall


def short(report: Report) -> list[str]:
    """The measures to two places, for long tables."""
    return [f"{m.value:.2f} ± {m.error:.2f}" for m in measures_of(report)]


def cells(report: Report) -> list[str]:
    """The measures as they print themselves, and how many samples were not finite."""
    return [*map(str, measures_of(report)), str(report.not_finite)]
