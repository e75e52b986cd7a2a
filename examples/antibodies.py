"""Antibodies: a mouse's heavy chain redesigned to look human, by a released language model and its species head,
judged by another model that no guide sees.

Two tasks: the whole framework around the mouse's three CDR loops, as in grafting, and the loops within its framework.
Every method has about the same number of calls a sample; a pull-back counts as one more.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import CLEAN
from guidance_jax.datasets.sequences import AMINO_ACIDS, text
from guidance_jax.discrete.ancestral import Ancestral
from guidance_jax.discrete.any_order import AnyOrder
from guidance_jax.discrete.infill import FREE, Infill
from guidance_jax.discrete.lambo import LaMBO
from guidance_jax.discrete.nos import NOS
from guidance_jax.discrete.tag import TAG
from guidance_jax.kernels.reverse import Reverse
from guidance_jax.particles.best_of import BestOf
from guidance_jax.particles.populations import populations
from guidance_jax.particles.smc import SMC
from guidance_jax.particles.twisted import Twisted
from guidance_jax.sample import generate
from guidance_jax.schedules import RectifiedFlow
from released.antibodies import (
    PROCESS,
    SPECIES,
    AntiBERTy,
    pseudo_log_likelihood,
    sapiens,
    tokens_of,
)
from table import About, Method, Row, compare, real, run, write_rows

ABOUT = About(
    ("antibodies.json",),
    "A mouse antibody made human by AntiBERTy, judged by Sapiens",
    "human: by the guide's own head; judge: log p a letter by Sapiens, nats; kept: share of the parent's letters.",
    {"samples": 4},
)

# the mouse chain that Sapiens' own documentation humanises, and its loops by IMGT
PARENT = (
    "QVKLQESGAELARPGASVKLSCKASGYTFTNYWMQWVKQRPGQGLDWIGAIYPGDGNTRYTHKFKGKATLTADKSSSTAYMQLSSLASEDSGVYYC"
    "ARGEGNYAWFAYWGQGTTVTVSS"
)
LOOPS = ("GYTFTNYW", "IYPGDGNT", "ARGEGNYAWFAY")
HUMAN = SPECIES.index("human")
FLOW = RectifiedFlow()
CALLS = 96
STEPS = 16


def in_loops() -> np.ndarray:
    """Which positions are in a CDR loop, (L,)."""
    found = np.zeros(len(PARENT), bool)
    for loop in LOOPS:
        at = PARENT.index(loop)
        found[at : at + len(loop)] = True
    return found


@dataclass(frozen=True)
class Task:
    """What may change: every position that is not `fixed` begins as a mask."""

    name: str
    fixed: np.ndarray

    @classmethod
    def framework(cls) -> "Task":
        return cls("framework", in_loops())

    @classmethod
    def loops(cls) -> "Task":
        return cls("loops", ~in_loops())

    @property
    def masks(self) -> int:
        return int((~self.fixed).sum())

    @property
    def known(self) -> np.ndarray:
        """The tokens that stay, -1 where free."""
        return np.where(self.fixed, tokens_of(PARENT)[0], FREE)

    def measure(self, judged: dict[str, Callable]) -> Callable[[np.ndarray], dict[str, float]]:
        """Means over samples (n, L).

        human: p(human) by the species head, which guides; judge: mean log p a letter by Sapiens, nats, which does not;
        kept: share of letters that may change and are the parent's; diversity: mean share of differing ones of two
          samples.
        """
        parent, may = tokens_of(PARENT)[0], ~self.fixed

        def measures(x):
            other = np.random.default_rng(0).permutation(len(x))
            return {name: float(np.mean(f(jnp.asarray(x)))) for name, f in judged.items()} | {
                "kept": float(np.mean(x[:, may] == parent[may])),
                "diversity": float(np.mean(x[:, may] != x[other][:, may])),
            }

        return measures


def judges(network: AntiBERTy, data: str | Path | None = None) -> dict[str, Callable]:
    """The guide's own p(human), and Sapiens, which has never seen it."""
    classifier, other = network.classifier("species"), sapiens("heavy", data, download=True)
    own = jax.jit(lambda x: jax.lax.map(lambda x: jnp.exp(classifier.value(x, CLEAN, HUMAN)), x, batch_size=8))
    return {"human": own, "judge": jax.jit(lambda x: jax.lax.map(partial(pseudo_log_likelihood, other), x))}


def methods(network: AntiBERTy, task: Task) -> dict[str, Method]:
    """Every method at about `CALLS` calls a sample, with the strengths that a sweep tries."""
    model, solver, shape = network.model, Ancestral(), (len(PARENT),)
    species, value = network.classifier("species"), network.value("species")

    def one(make, steps):
        def draw(keys, scale):
            kernel = Infill(make(jnp.float32(scale)), task.known)
            return in_parts(lambda k: generate(k, kernel, FLOW.levels(steps), shape, human(k)), keys)

        return draw

    def population(make, steps, n, best=False):
        def draw(keys, scale):
            smc = Infill(SMC(make(jnp.float32(scale)), threshold=0.0 if best else 0.5), task.known)

            def part(k):
                found = populations(k, smc, FLOW.levels(steps), shape, n, human(k))
                return found.best() if best else found.draw(jax.random.key(1))

            return in_parts(part, keys, 4)

        return draw

    def edits(keys, scale):
        guided = NOS(model, value, jnp.float32(scale), rate=0.5, kl=0.5, steps=4)
        edit, start = LaMBO(guided, known=task.known, temperature=1.0), task.masks / len(PARENT) / 2

        def part(k):
            begin = jnp.tile(tokens_of(PARENT), (len(k), 1))
            return generate(k, edit, FLOW.levels(6, start=start), shape, human(k), begin)

        return in_parts(part, keys)

    def nos(w):
        return Reverse(NOS(model, value, w, rate=0.1, kl=0.1, steps=3), solver)

    return {
        "no guidance": Method(one(lambda w: Reverse(model, solver), STEPS), (0.0,), (STEPS, 0)),
        "best of 6": Method(
            population(lambda w: BestOf(Reverse(model, solver), species, w), STEPS, 6, True), (1.0,), (6 * STEPS, 6)
        ),
        "TAG": Method(one(lambda w: Reverse(TAG(model, species, w), solver), 32), (2.0, 8.0, 32.0), (32, 64)),
        "NOS": Method(one(nos, 12), (10.0, 100.0), (12 * 4, 12 * 4)),
        "LaMBO-2, from the parent": Method(edits, (10.0,), (6 * 8, 6 * 8)),
        "twisted, 6 particles": Method(
            population(lambda w: Twisted(model, solver, species, w, noisy=True), 8, 6), (2.0, 8.0), (48, 48)
        ),
        "any order, 2 candidates": Method(
            one(lambda w: AnyOrder(model, species, w, top=2, masks=task.masks), task.masks),
            (1.0, 4.0, 16.0),
            (task.masks, 2 * task.masks),
        ),
    }


def human(keys: Any) -> Any:
    """The label that every sample is asked for."""
    return jnp.full(len(keys), HUMAN)


def in_parts(f: Callable, keys: Any, size: int = 8) -> np.ndarray:
    """`f` of `size` keys at a time, which bounds the memory."""
    return np.concatenate([np.asarray(f(keys[i : i + size])) for i in range(0, len(keys), size)])


# of the strengths of `methods`, after a try on other samples
CHOSEN = {"TAG": (2.0, 8.0), "NOS": (10.0,), "twisted, 6 particles": (2.0,), "any order, 2 candidates": (1.0,)}
FRAMEWORK = ("no guidance", "best of 6", "TAG", "NOS", "LaMBO-2, from the parent", "twisted, 6 particles")
LOOPS_BY = ("no guidance", "best of 6", "NOS", "any order, 2 candidates")


def demo(out: Path, data: str | Path | None = None, *, samples: int = 8) -> tuple[list[Row], dict[str, str]]:
    """Redesign the chain in every way, both tasks, and write `antibodies.json` to `out`.

    Returns:
      (the table, one sequence of every line).

    Raises:
      Refused: a file is missing and cannot be fetched; the message says how to get it.
    """
    network = AntiBERTy(data, download=True)
    judged, rows, examples = judges(network, data), [], {}
    for task, wanted in ((Task.framework(), FRAMEWORK), (Task.loops(), LOOPS_BY)):
        measure, found = task.measure(judged), methods(network, task)
        for name in wanted:
            method = found[name]
            scales = CHOSEN.get(name, method.scales)
            chosen = {f"{task.name}: {name}": Method(method.draw, scales, method.calls)}
            for row, x in compare(chosen, measure, samples):
                rows.append(row)
                examples[f"{row.method}, {row.scale:g}"] = text(x[0], AMINO_ACIDS)
        rows.append(real(f"{task.name}: the parent", measure(np.tile(tokens_of(PARENT), (2, 1)))))
    about = {
        "model": "AntiBERTy, antiberty 0.1.3 (MIT)",
        "judge": "Sapiens, sapiens 1.0.5 (MIT)",
        "space": str(PROCESS),
    }
    write_rows(out / "antibodies.json", rows, samples=samples, calls=CALLS, **about)
    return rows, examples


if __name__ == "__main__":
    run(ABOUT, demo)
