"""Samples at fixed keys of every method, solver and kernel of the tables, stored: a change of the code keeps them.

    python -m tests.laws.test_samples --write

writes them anew, which says that samples were meant to change; the changelog then says why.
"""

import sys
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import guidance_jax as gj
from tests import parts, table, token_table

STORED = Path(__file__).parent.parent / "golden" / "samples.npz"
SAMPLES, STEPS, PARTICLES = 3, 4, 4
STRENGTHS = (0.6, 1.7)
LEVELS = gj.Cosine().levels(STEPS)


def cases():
    """By name: what makes the kernel, its levels, the shape of a sample."""
    found = {}
    for w in STRENGTHS:
        for name, kernel in table.all_kernels(w).items():
            found[f"plane, {name}, {w}"] = (lambda kernel=kernel: kernel), LEVELS, (2,)
        for row, make in table.POPULATIONS.items():
            found[f"plane, population {name_of(row)}, {w}"] = partial(make, w), LEVELS, (2,)
        for row, of in token_table.ROWS.items():
            found[f"tokens, {name_of(row)}, {w}"] = partial(of.make, w), of.levels, of.shape
        for row, make in token_table.PARTICLES.items():
            population = lambda make=make, w=w: gj.SMC(make(w), threshold=0.7)  # noqa: E731
            found[f"tokens, population {name_of(row)}, {w}"] = population, token_table.LEVELS, (3,)
    for base, (model, levels, shape) in parts.BASES.items():
        for name, make in parts.METHODS.items():
            found[f"{base}, {name}"] = partial(reverse, make, model), levels, shape
    return found


def reverse(make, model):
    guided = make(model)
    return gj.Reverse(guided, parts.usual(guided))


def name_of(row):
    return row if isinstance(row, str) else row.__name__


def draw(make, levels, shape):
    """Samples of labels 0, 1, 2, of populations with their weights; None of parts that do not go together."""
    keys, labels = gj.keys(7, SAMPLES), jnp.arange(SAMPLES)
    try:
        kernel = make()
        if not kernel.population:
            return np.asarray(gj.generate(keys, kernel, levels, shape, labels))
        found = gj.populations(keys, kernel, levels, shape, PARTICLES, labels)
        x = np.asarray(found.x)
        weights = np.broadcast_to(np.expand_dims(found.log_w, tuple(range(2, x.ndim))), x.shape)
        return np.stack([x, np.exp(weights)])
    except gj.core.Refused:
        return None


def difference(ours, stored):
    """The largest difference of real samples, relative above one; of tokens 0 or 1: the same, or not."""
    if ours.dtype.kind in "iub":
        return float((ours != stored).any())
    return float(np.max(np.where(ours == stored, 0, np.abs(ours - stored) / (1 + np.abs(stored)))))


@pytest.mark.release
def test_samples_are_those_that_were_stored(measured):
    with np.load(STORED) as stored:
        ours = {name: draw(*case) for name, case in cases().items()}
        assert {name for name, x in ours.items() if x is not None} == set(stored.files)
        differences = {name: difference(ours[name], stored[name]) for name in stored.files}
        same = sum(np.array_equal(ours[name], stored[name], equal_nan=True) for name in stored.files)
    measured(f"{same} of {len(differences)} to the bit, the largest difference", max(differences.values()))
    assert not {name: d for name, d in differences.items() if not d <= 1e-5}


if __name__ == "__main__" and "--write" in sys.argv:
    drawn = {name: draw(*case) for name, case in cases().items()}
    np.savez_compressed(STORED, **{name: x for name, x in drawn.items() if x is not None})
    print(f"{sum(x is not None for x in drawn.values())} of {len(drawn)} cases have samples")
