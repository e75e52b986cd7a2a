"""What the page of scales says of every method at 0, at 1 and outside a window is what it is."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import guidance_jax as gj
from tests import table
from tests.laws import first

PAGE = (Path(__file__).parent.parent.parent / "docs" / "methods" / "scales.md").read_text()
ROWS = dict(
    (name.strip("` "), tuple(cell.strip() for cell in cells))
    for name, *cells in (line.strip("|").split("|") for line in PAGE.splitlines() if line.startswith("| `"))
)
METHODS = [c for c in table.GUIDANCE if c not in (gj.Clip, gj.guidance.DynamicClip)]  # those have a radius, no scale


def predicted(model):
    """The clean estimate at three levels on the way, memory threaded through."""
    x, label, found = jnp.array([0.4, -0.9]), jnp.array(1), []
    state = model.init(x)
    for t in (0.7, 0.5, 0.3):
        pred, state = model(x, gj.Cosine()(t), label, state, jax.random.key(0))
        found.append(pred.x0)
    return np.stack(found)


def ends(method):
    """("conditional", "unconditional" or "-" at 0, at 1, outside a window)."""
    plain = {"unconditional": gj.Unconditional(table.MIXTURE, table.NULL), "conditional": table.MIXTURE}
    plain = {name: predicted(model) for name, model in plain.items()}
    make = table.GUIDANCE[method].make
    made = [make(0.0), make(1.0)]
    if method is gj.guidance.Compose:
        weights = [[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]]
        made = [gj.Conditioned(method(table.MIXTURE, table.NULL, w), table.two) for w in weights[:2]]
        made.append(gj.Conditioned(method(table.MIXTURE, table.NULL, weights[2], table.Outside()), table.two))
    else:
        made.append(make(table.Outside()))
    return tuple(
        next((name for name, x0 in plain.items() if np.allclose(predicted(model), x0, atol=1e-5)), "-")
        for model in made
    )


@pytest.mark.release
@pytest.mark.parametrize(
    "method",
    first(table.CORE, METHODS),
    ids=lambda c: c.__name__,
)
def test_the_page_says_what_a_method_is_at_its_ends(method):
    assert ROWS[method.__name__] == ends(method)


def test_the_page_has_every_method_of_the_table():
    assert set(ROWS) == {c.__name__ for c in METHODS}
