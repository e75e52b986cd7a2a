"""Reads `results/`, and writes the figures in the sentences of `docs` from them, as `tables.py` its tables.

A figure names its place in a comment behind it, `0.43<!-- = proteins / method=no guidance & scale=1 / recovery -->`: a
file, the case of the one row that has those values, and a measure or a cost of it; or `file / settings / name`. `A
divided by B` is a quotient, of numbers too. A figure keeps its digits and its unit; one that bounds others needs digits
enough not to be rounded below them.
"""

import json
import re
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
FIGURE = re.compile(r"(?P<old>-?\d[\d.,]*(?:e-?\d+)?)(?P<percent> ?%)?<!-- = (?P<place>.*?) -->")


def result(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def rows(name: str, **case: Any) -> list[dict[str, Any]]:
    """The rows of a result that have these values in their case; a value of `...` is any."""

    def fits(row: dict[str, Any]) -> bool:
        return all(k in row["case"] and v in (..., row["case"][k]) for k, v in case.items())

    return [row for row in result(name)["rows"] if fits(row)]


def value(row: dict[str, Any], name: str) -> Any:
    """A measure of a row, or a cost."""
    return row["measures"][name]["value"] if name in row["measures"] else row["cost"][name]


def only(entries: list[dict[str, Any]], wanted: str) -> dict[str, Any]:
    """The one row with these values in its case, `key=value & key=value`."""
    pairs = [part.split("=", 1) for part in wanted.split(" & ")]

    def said(x: Any) -> str:
        return x if isinstance(x, str) else f"{x:g}"

    found = [row for row in entries if all(k in row["case"] and said(row["case"][k]) == v for k, v in pairs)]
    if len(found) != 1:
        raise ValueError(f"{len(found)} rows have {wanted}, expected one")
    return found[0]


def at(place: str) -> float:
    """What stands at `file / case / measure` or `file / settings / name`, a number, or the quotient of two of these."""
    if " divided by " in place:
        above, below = place.split(" divided by ")
        return at(above) / at(below)
    if place.isdigit():
        return float(place)
    name, case, *names = place.split(" / ")
    if case != "settings":
        return float(value(only(result(name)["rows"], case), *names))
    found: Any = result(name)["settings"]
    for key in names:
        found = found[key]
    return float(found)


def written(number: float, old: str) -> str:
    """The number with as many digits as the old one has."""
    mantissa, exponent, _ = old.partition("e")
    digits = len(mantissa.partition(".")[2])
    if exponent:
        mantissa, power = f"{number:.{digits}e}".split("e")
        return f"{mantissa}e{int(power)}"
    return f"{number:{',' if ',' in old else ''}.{digits}f}"


def with_figures(text: str) -> str:
    """The text with its figures as the results have them."""

    def figure(found: re.Match) -> str:
        percent = found["percent"] or ""
        number = at(found["place"]) * (100 if percent else 1)
        return f"{written(number, found['old'])}{percent}<!-- = {found['place']} -->"

    text, count = FIGURE.subn(figure, text)
    if count != text.count("<!-- = "):
        raise ValueError(f"{text.count('<!-- = ') - count} comments of a figure have no figure before them")
    return text
