"""The console to which the commands print, and the format of measures."""

import sys

from rich.console import Console

from guidance_jax.metrics.bootstrap import Estimate
from guidance_jax.metrics.report import Report

# 120 characters wide if the output is no terminal, so that tables fit
console = Console(width=None if sys.stdout.isatty() else 120)
COLUMNS = ("accuracy", "diversity", "Frechet distance", "precision", "recall", "not finite")


def measures_of(report: Report) -> tuple[Estimate, ...]:
    """Return the measures of a report in the order of `COLUMNS`."""
    return report.accuracy, report.diversity, report.frechet, report.precision, report.recall


def short(report: Report) -> list[str]:
    """Format the measures with two decimals, for long tables."""
    return [f"{m.value:.2f} ± {m.error:.2f}" for m in measures_of(report)]


def cells(report: Report) -> list[str]:
    """Format the measures with three decimals, and the number of samples that are not finite."""
    return [*map(str, measures_of(report)), str(report.not_finite)]
