"""Laws over tables of methods."""

import pytest


def first(few, rows):
    """Parameters: `few` of the rows always, one of each mechanism; the others only with `--all`."""
    few = set(few)
    assert few <= set(rows), few - set(rows)
    return [row if row in few else pytest.param(row, marks=pytest.mark.slow) for row in rows]
