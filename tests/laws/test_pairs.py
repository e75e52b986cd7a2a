"""Composition: every method in every method, with every solver, kernel, move, wrapper and guide, in all spaces.

A pair runs jitted and vmapped with finite samples of the right shape, or is refused in one line; nothing else may come
out. Which it is, and with which words a refusal begins, is stored in `golden/pairs.json`: a pair that changes fails.
`pytest` traces a selection, `pytest --all` compiles and runs every pair. `python -m tests.laws.test_pairs` counts them,
and with `--write` it stores what it found.
"""

import argparse
import functools
import json
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import guidance_jax as gj
from guidance_jax.discrete import LaMBO
from guidance_jax.sample import check_kernel
from tests.laws import first
from tests.parts import (
    ADAPTERS,
    ASKING,
    BASES,
    GUIDES,
    KERNELS,
    METHODS,
    SOLVERS,
    WRAPPERS,
    usual,
)

GOLDEN = Path(__file__).parent.parent / "golden" / "pairs.json"
LABELS = jnp.array([0, 1])
STORED = [space for space in BASES if space != "embeddings"]  # which are as the plane, and take as long to trace
# one of each way in which a method asks what is inside
REPRESENTATIVE = ("CFG", "APG", "Compose", "Autoguidance", "Classifier", "TFG", "MMPS", "TAG", "NOS", "FUDGE", "PPLM")


def run(kernel, base):
    """Two samples, or two populations of three; checked before, as `generate` does."""
    shape = (3, *base.shape) if isinstance(kernel, gj.Kernel) and kernel.population else base.shape
    check_kernel(kernel, base.levels, shape, LABELS)

    def one(key, label):
        first, rest = jax.random.split(key)
        return gj.sample(rest, kernel, base.levels, kernel.start(first, base.levels, shape), label).x

    return jax.vmap(one)(gj.keys(0, 2), LABELS), (2, *shape)


def outcomes(pairs, execute):
    """name -> "ran" or the refusal, of pairs name -> (a maker of a kernel, its base); all else is collected and raised.

    All pairs are one program, which takes far less time than one program each.
    """
    found, shapes, wrong = {}, {}, {}

    def every():
        samples = {}
        for name, (make, base) in pairs.items():
            try:
                samples[name], shapes[name] = run(make(), base)
                found[name] = "ran"
            except gj.Refused as error:
                found[name] = str(error)
            except Exception as error:
                wrong[name] = f"{type(error).__name__}: {str(error)[:200]}"
        return samples

    samples = jax.jit(every)() if execute else jax.eval_shape(every)
    for name, x in samples.items():
        if x.shape != shapes[name]:
            wrong[name] = f"shape {x.shape}, expected {shapes[name]}"
        if execute and not np.isfinite(x).all():
            wrong[name] = "not finite"
    for name, text in found.items():
        if text != "ran" and ("\n" in text or len(text) > 400):
            wrong[name] = f"no refusal of one line: {text}"
    assert not wrong, wrong
    return found


def of_methods(outer, space, inner=METHODS):
    base = BASES[space]
    return {
        f"{outer}({name}) on {space}": (
            lambda make=make: gj.Reverse(METHODS[outer](make(base.model)), usual(base.model)),
            base,
        )
        for name, make in inner.items()
    }


def of_solvers(method, space):
    base = BASES[space]
    return {
        f"{method} with {name} on {space}": (lambda s=solver: gj.Reverse(METHODS[method](base.model), s), base)
        for name, solver in SOLVERS.items()
    }


def of_kernels(kernel, space):
    base = BASES[space]
    return {
        f"{kernel} of {name} on {space}": (lambda make=make: KERNELS[kernel](make(base.model)), base)
        for name, make in {"the model": lambda m: m, **METHODS}.items()
    }


def of_wrappers(wrapper, space):
    """Around every kernel, and around every kernel in another wrapper."""
    base = BASES[space]
    inside = {name: make for name, make in KERNELS.items() if name not in ("Corrected", "LaMBO")}
    inside["Corrected"] = lambda m: gj.SMC(gj.Corrected(gj.CFG(m, 3, 1.5), usual(m)))
    inside["LaMBO"] = lambda m: LaMBO(METHODS["NOS"](m))
    inside |= {f"{name} of Reverse": (lambda m, w=w: w(gj.Reverse(m, usual(m)))) for name, w in WRAPPERS.items()}
    return {
        f"{wrapper} around {name} on {space}": (lambda make=make: WRAPPERS[wrapper](make(base.model)), base)
        for name, make in inside.items()
    }


def of_guides(method, space):
    base = BASES[space]
    return {
        f"{method} asking {adapter}({name}) on {space}": (
            lambda adapt=adapt, guide=guide: gj.Reverse(
                ASKING[method](base.model, adapt(gj.core.as_guide(guide))), usual(base.model)
            ),
            base,
        )
        for adapter, adapt in ADAPTERS.items()
        for name, guide in GUIDES.items()
    }


ALONE = "kernels and moves of methods"
GROUPS = {
    "methods in methods": (of_methods, METHODS),
    "methods with solvers": (of_solvers, METHODS),
    ALONE: (of_kernels, KERNELS),
    "wrappers around kernels": (of_wrappers, WRAPPERS),
    "methods asking adapted guides": (of_guides, ASKING),
}


# one model of each space; embeddings are as the plane, and masks without hidden states have fewer methods
SPACES = ["plane", "masks, hidden", "uniform", "text", "flow"]


def places(group, part):
    """The spaces of which the outcomes are stored: all, but of embeddings the methods alone."""
    return [space for space in BASES if space != "embeddings" or (group, part) == (ALONE, "Reverse")]


def kind(outcome):
    """The word `ran`, or the first words of a refusal."""
    return " ".join(outcome.split()[:5])


@functools.cache
def stored():
    return json.loads(GOLDEN.read_text())


def code(number):
    """Two characters, of which a row has one a pair, in the order in which the pairs are made."""
    return f"{number:02x}"


def check_stored(group, part, space, found):
    """Raise unless each pair found is as stored, in the group's row of this part and space."""
    kinds, row = stored()["kinds"], stored()["rows"][group].get(f"{part} on {space}", "")
    names = list(GROUPS[group][0](part, space))
    known = {name: kinds[int(row[2 * i : 2 * i + 2], 16)] for i, name in enumerate(names) if 2 * i < len(row)}
    changed = {name: (known.get(name), kind(what)) for name, what in found.items() if known.get(name) != kind(what)}
    assert not changed, f"(stored, now) of {changed}; if that is meant, run: python -m tests.laws.test_pairs --write"


def write(found):
    """Store `found`, group -> "part on space" -> name -> outcome."""
    kinds = sorted({kind(what) for rows in found.values() for row in rows.values() for what in row.values()})
    number = {what: code(i) for i, what in enumerate(kinds)}
    rows = {
        group: {row: "".join(number[kind(what)] for what in pairs.values()) for row, pairs in rows.items()}
        for group, rows in found.items()
    }
    GOLDEN.write_text(json.dumps({"kinds": kinds, "rows": rows}, indent=1) + "\n")


def test_every_row_is_stored():
    for group, (_, parts) in GROUPS.items():
        rows = [f"{part} on {space}" for part in parts for space in places(group, part)]
        assert list(stored()["rows"][group]) == rows


@pytest.mark.release
@pytest.mark.parametrize("space", first(["plane", "masks", "text"], STORED))
@pytest.mark.parametrize("outer", REPRESENTATIVE)
def test_representative_methods_in_each_other(outer, space):
    inner = {name: METHODS[name] for name in REPRESENTATIVE}
    found = outcomes(of_methods(outer, space, inner), execute=False)
    if space != "embeddings":
        check_stored("methods in methods", outer, space, found)


@pytest.mark.slow
@pytest.mark.parametrize("space", first(["plane", "masks"], STORED))
def test_wrappers_around_every_kernel(space):
    for name in WRAPPERS:
        check_stored("wrappers around kernels", name, space, outcomes(of_wrappers(name, space), execute=False))


@pytest.mark.release
@pytest.mark.parametrize("method", ["Classifier", "TAG", "FUDGE"])
def test_methods_asking_every_adapted_guide(method):
    """In the space that they are for."""
    space = {"Classifier": "plane", "TAG": "masks", "FUDGE": "text"}[method]
    found = outcomes(of_guides(method, space), execute=False)
    check_stored("methods asking adapted guides", method, space, found)


@pytest.mark.parametrize("space", BASES)
def test_every_method_on_every_space(space):
    """A space is never without its methods, and never with another's."""
    found = outcomes(of_kernels("Reverse", space), execute=False)
    check_stored(ALONE, "Reverse", space, found)
    ran = {name for name in METHODS if found[f"Reverse of {name} on {space}"] == "ran"}
    assert {"CFG", "Autoguidance", "Tempered", "Unconditional", "Conditioned"} <= ran
    assert ("TFG" in ran) == (space in ("plane", "embeddings"))
    assert ("TAG" in ran) == (space in ("masks", "masks, hidden", "uniform"))
    assert ("FUDGE" in ran) == ("PPLM" in ran) == (space == "text")
    assert ("NOS" in ran) == (space in ("masks, hidden", "embeddings"))


@pytest.mark.release
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("group", GROUPS)
def test_every_pair(group, space):
    make, parts = GROUPS[group]
    for part in parts:
        check_stored(group, part, space, outcomes(make(part, space), execute=True))


def count(rows):
    """How many pairs of the SPACES ran, and how many were refused."""
    outcome = [what for row, pairs in rows.items() if row.split(" on ")[-1] in SPACES for what in pairs.values()]
    return Counter("ran" if what == "ran" else "refused" for what in outcome)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="store the outcome of every pair in golden/pairs.json")
    storing = parser.parse_args().write
    every = {
        title: {
            f"{part} on {place}": outcomes(build(part, place), execute=False)
            for part in parts
            for place in (places(title, part) if storing else SPACES)
        }
        for title, (build, parts) in GROUPS.items()
    }
    for title, rows in every.items():
        print(f"{title}: {dict(count(rows))}")
    total = sum(map(count, every.values()), Counter())
    print(f"all: {sum(total.values())} pairs, {dict(total)}")
    if storing:
        write(every)
