"""Figures in the sentences of `docs`, written from `results/` as its tables are.

A figure names its place in a comment behind it, `0.43<!-- = proteins / rows / method=no guidance & scale=1 / ... -->`:
a file, keys, and of lists the one entry that has those values; `A divided by B` is a quotient, of numbers too. A figure
keeps its digits and its unit; one that bounds others needs digits enough not to be rounded below them.
"""

import json
import re
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
FIGURE = re.compile(r"(?P<old>-?\d[\d.,]*(?:e-?\d+)?)(?P<percent> ?%)?<!-- = (?P<place>.*?) -->")


def result(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def only(entries: list[dict], wanted: str) -> dict:
    """The one entry with these values, `key=value & key=value`."""
    pairs = [part.split("=", 1) for part in wanted.split(" & ")]

    def said(value: Any) -> str:
        return value if isinstance(value, str) else f"{value:g}"

    found = [e for e in entries if all(k in e and said(e[k]) == v for k, v in pairs)]
    if len(found) != 1:
        raise ValueError(f"{len(found)} entries have {wanted}, expected one")
    return found[0]


def value(place: str) -> float:
    """What stands at `file / key / ...`, a number, or the quotient of two of these."""
    if " divided by " in place:
        above, below = place.split(" divided by ")
        return value(above) / value(below)
    if place.isdigit():
        return float(place)
    name, *keys = place.split(" / ")
    found: Any = result(name)
    for key in keys:
        found = found[key] if isinstance(found, dict) else found[int(key)] if key.isdigit() else only(found, key)
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
        number = value(found["place"]) * (100 if percent else 1)
        return f"{written(number, found['old'])}{percent}<!-- = {found['place']} -->"

    text, count = FIGURE.subn(figure, text)
    if count != text.count("<!-- = "):
        raise ValueError(f"{text.count('<!-- = ') - count} comments of a figure have no figure before them")
    return text
