"""The framework of an antibody, redesigned."""

from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np

import guidance_jax as gj
from antibodies import FLOW, PARENT, Task, human, in_parts, judges, methods
from benchmarks.suite import Row, benchmark
from benchmarks.sweep import DRAWN, VALIDATION, Family, estimates, family, sweep
from guidance_jax.discrete import NOS
from released.antibodies import AntiBERTy


@benchmark(quick={"samples": 2}, **DRAWN)
def antibodies_tuned(data: Path | None = None, samples: int = 16, known: list = ()) -> Iterator[Row]:
    """Does NOS beat best-of-n at equal calls: a mouse antibody's framework, redesigned to be human?

    AntiBERTy fills in the framework, its species head guides. Every method spends about 48 calls a sample. Its strength
    is the one of highest p(human) on a validation seed among those that Sapiens, which guides nothing, finds no less
    natural than unguided designs; reported are three other seeds (`sweep.py`). NOS is swept by its rate, at two weights
    of the KL, and with one inner step in the place of three. `--data`: a folder with the two wheels; else they are
    downloaded.
    """
    network, task = AntiBERTy(data, download=True), Task.framework()
    judged, may = judges(network, data), ~task.fixed
    found = methods(network, task)

    def nos(kl, inner, outer):
        def draw(seed, rate):
            guided = NOS(network.model, network.value("species"), 10.0, rate=jnp.float32(rate), kl=kl, steps=inner)
            kernel = gj.Infill(gj.Reverse(guided, gj.Ancestral()), task.known)

            def part(k):
                return gj.generate(k, kernel, FLOW.levels(outer), (len(PARENT),), human(k))

            return in_parts(part, gj.keys(seed, samples))

        return Family(draw, (0.1, 0.3, 1.0), {"model calls": outer * (inner + 1), "classifier calls": outer * inner})

    def of(name, strengths=None):
        return family(found[name], samples, strengths)

    families = {
        "no guidance": of("no guidance"),
        "best of 6": of("best of 6"),
        "NOS, KL weight 0.01": nos(0.01, 3, 12),
        "NOS, KL weight 0.1": nos(0.1, 3, 12),
        "NOS, KL weight 0.1, one inner step": nos(0.1, 1, 24),
        "TAG": of("TAG", (2.0, 8.0)),
        "twisted, 6 particles": of("twisted, 6 particles", (2.0,)),
    }

    def each(x):
        return {name: np.asarray(f(jnp.asarray(x))) for name, f in judged.items()}

    free = each(families["no guidance"].draw(VALIDATION, 0.0))
    least = float(np.mean(free["judge"]))

    def summary(values, x):
        def of(rows):
            other = np.random.default_rng(0).permutation(len(rows))
            means = {name: float(np.mean(v[rows])) for name, v in values.items()}
            return means | {"diversity": float(np.mean(x[rows][:, may] != x[rows][other][:, may]))}

        return of

    def validate(name, x):
        measures = summary(each(x), x)(np.arange(len(x)))
        return (-measures["human"] if name == "no guidance" or measures["judge"] >= least else np.inf), measures

    def report(x):
        return estimates(summary(each(x), x), len(x))

    yield Row({"limit": "judge"}, {"judge": least})
    yield from sweep(families, validate=validate, report=report, curves=(), known=known)
