"""Laws over tables of methods."""

import pytest


def first(few, rows, others=pytest.mark.slow):
    """Parameters: `few` of the rows always, one of each mechanism, or so many; the others are marked."""
    rows = list(rows)
    few = range(few) if isinstance(few, int) else [rows.index(row) for row in few]
    return [row if i in few else pytest.param(row, marks=others) for i, row in enumerate(rows)]
