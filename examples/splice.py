"""Splice sites: guide discrete diffusion towards strong ones, judged by what was really measured of every sequence."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from guidance_jax.core import Guide
from guidance_jax.datasets.sequences import Sequences, text
from guidance_jax.discrete.ancestral import Ancestral
from guidance_jax.discrete.any_order import AnyOrder
from guidance_jax.discrete.first_hitting import FirstHitting
from guidance_jax.discrete.lambo import LaMBO
from guidance_jax.discrete.mask_predict import MaskPredict
from guidance_jax.discrete.network import HiddenNetwork
from guidance_jax.discrete.nos import NOS
from guidance_jax.discrete.predictor import PredictorGuidance
from guidance_jax.discrete.predictor_free import PredictorFree
from guidance_jax.discrete.process import Absorbing
from guidance_jax.discrete.tag import TAG
from guidance_jax.guidance.cfg import CFG
from guidance_jax.kernels.reverse import Reverse
from guidance_jax.models.adapters import Unconditional
from guidance_jax.models.network import NoisyClassifier
from guidance_jax.particles.best_of import BestOf
from guidance_jax.particles.twisted import Twisted
from guidance_jax.sample import generate
from guidance_jax.zoo.sequence_models import value_head
from recipes import FLOW, train_token_classifier, train_tokens
from released.donor import donor
from released.splice_data import splice
from table import About, Method, Row, compare, one_of_population, real, run, samples_of, write_rows

ABOUT = About(
    ("splice.json",),
    "Guided to the strongest tenth of splice sites, judged by measurement",
    "inclusion: mean measured log10 %; kl: to the true p(x | top tenth), pairs of positions, nats.",
    {"steps": 20},
)

LABEL = 1  # the top decile


@dataclass(frozen=True)
class Truth:
    """What is known of every measured sequence."""

    data: Sequences

    @property
    def values(self) -> np.ndarray:
        assert self.data.values is not None
        return self.data.values

    @cached_property
    def measured(self) -> dict[tuple[int, ...], float]:
        """Sequence -> its value."""
        return {tuple(row): v for row, v in zip(self.data.tokens.tolist(), self.values.tolist(), strict=True)}

    def measure(self, tokens: np.ndarray) -> dict[str, float]:
        """Means over samples (n, L), with the data's own conditional as the goal.

        inclusion: mean measured log10 percentage, of those measured; top: share that lies in the top decile; diversity:
        mean share of differing positions of two samples; kl: KL, in nats and averaged over pairs of positions, of the
        samples' two-base frequencies from those of the true p(x | top decile); unmeasured: share of samples that nobody
        measured.
        """
        found = np.asarray([self.measured.get(tuple(row), np.nan) for row in tokens.tolist()])
        least = self.values[self.data.labels == LABEL].min()
        other = np.random.default_rng(0).permutation(len(tokens))
        return {
            "inclusion": float(np.nanmean(found)) if np.isfinite(found).any() else float("nan"),
            "top": float(np.mean(np.nan_to_num(found, nan=-np.inf) >= least)),
            "diversity": float(np.mean(tokens != tokens[other])),
            "kl": self.pair_divergence(tokens),
            "unmeasured": float(np.isnan(found).mean()),
        }

    def pair_divergence(self, tokens: np.ndarray) -> float:
        """KL(samples || p(x | top)) of the joint frequencies of two positions, mean over pairs; half a count added."""
        size, length = len(self.data.alphabet), tokens.shape[1]
        goal = self.data.tokens[self.data.labels == LABEL]
        terms = []
        for i in range(length):
            for j in range(i + 1, length):
                p, q = (np.bincount(t[:, i] * size + t[:, j], minlength=size**2) + 0.5 for t in (tokens, goal))
                p, q = p / p.sum(), q / q.sum()
                terms.append(float(np.sum(p * np.log(p / q))))
        return float(np.mean(terms))


def methods(
    model: HiddenNetwork, classifier: NoisyClassifier, steps: int = 16, particles: int = 4
) -> dict[str, Method]:
    """Every method for absorbing diffusion, one token at a time unless the name says otherwise."""
    assert model.domain is not None
    length, null = model.domain.shape[0], model.domain.null_label
    free = Unconditional(model, null)
    one, few = FLOW.levels(length), FLOW.levels(steps)
    first, value = FirstHitting(), value_head(model)
    sites = length * model.process.vocabulary + 1

    def kernel(make, levels=one):
        return samples_of(make, levels, (length,), LABEL)

    def population(move):
        return one_of_population(move, one, (length,), LABEL, particles)

    def improved(keys, scale):
        labels, edit = jnp.full(len(keys), LABEL), LaMBO(NOS(free, value, jnp.float32(scale)))
        begin = generate(keys, Reverse(free, first), one, (length,), labels)
        return generate(keys, edit, FLOW.levels(8, start=0.4), (length,), labels, begin)

    guided = (1.0, 2.0, 4.0)
    return {
        "no guidance": Method(kernel(lambda w: Reverse(free, first)), (0.0,), (length, 0)),
        "conditional model": Method(kernel(lambda w: Reverse(model, first)), (1.0,), (length, 0)),
        "D-CFG": Method(kernel(lambda w: Reverse(CFG(model, null, w), first)), guided[1:], (2 * length, 0)),
        "predictor-free rates": Method(
            kernel(lambda w: Reverse(PredictorFree(model, null, w), first)), guided[1:], (2 * length, 0)
        ),
        "exact rates": Method(
            kernel(lambda w: Reverse(PredictorGuidance(free, classifier, w), first)), guided, (length, length * sites)
        ),
        f"D-CBG, {steps} steps": Method(
            kernel(lambda w: Reverse(PredictorGuidance(free, classifier, w), Ancestral()), few),
            guided,
            (steps, steps * sites),
        ),
        "Taylor rates (TAG)": Method(
            kernel(lambda w: Reverse(TAG(free, classifier, w), first)), guided, (length, 2 * length)
        ),
        "NOS": Method(
            kernel(lambda w: Reverse(NOS(free, value, w, rate=1.0, steps=10), first)), (1.0,), (11 * length, 0)
        ),
        "LaMBO-2, 8 edits": Method(improved, (10.0,), (length + 8 * 7, 0)),
        "Mask-Predict on D-CFG, 4 steps": Method(
            kernel(lambda w: Reverse(CFG(model, null, w), MaskPredict(1.0)), FLOW.levels(4, start=1.0)), (2.0,), (8, 0)
        ),
        f"best of {particles}": Method(
            population(lambda w: BestOf(Reverse(free, first), classifier.log_prob, w)),
            (10.0,),
            (particles * length, particles),
        ),
        f"twisted particles, {particles}, led by TAG": Method(
            population(lambda w: Twisted(free, first, classifier, w, TAG(free, classifier, w), noisy=True)),
            guided,
            (2 * particles * length, 3 * particles * length),
        ),
    }


def off_the_shelf(model: HiddenNetwork, guide: Guide, particles: int = 4) -> dict[str, Method]:
    """The same model led by a published classifier of splice sites that has seen none of these measurements.

    It judges whole sites. Of masks it is told the mean of the bases, which makes it a rough classifier of masked ones;
    particles and the exact last step repair that.
    """
    assert model.domain is not None
    length, null = model.domain.shape[0], model.domain.null_label
    free, levels, guided = Unconditional(model, null), FLOW.levels(length), (1.0, 2.0, 4.0)
    solver = FirstHitting()

    def row(make, calls):
        return Method(samples_of(make, levels, (length,), LABEL), guided, calls)

    def population(move, calls):
        return Method(one_of_population(move, levels, (length,), LABEL, particles), guided, calls)

    calls = (2 * particles * length, 3 * particles * length)
    return {
        "MMSplice, exact rates, one mask": row(lambda w: AnyOrder(free, guide, w), (length, 4 * length)),
        "MMSplice, Taylor rates (TAG)": row(lambda w: Reverse(TAG(free, guide, w), solver), (length, 2 * length)),
        f"MMSplice, best of {particles}": population(
            lambda w: BestOf(Reverse(free, solver), guide, w), (particles * length, particles)
        ),
        f"MMSplice, twisted particles, {particles}, led by TAG": population(
            lambda w: Twisted(free, solver, guide, w, TAG(free, guide, w), noisy=True), calls
        ),
    }


def demo(
    out: Path,
    data: str | Path | None = None,
    *,
    samples: int = 300,
    steps: int = 1200,
    progress: bool = True,
) -> tuple[list[Row], dict[str, str]]:
    """Train (or reuse `out`/splice_models), sample every method, write `splice.json` to `out`.

    Returns:
      (the table, one sequence of every line).

    Raises:
      Refused: a file is missing and cannot be fetched; the message says how to get it.
    """
    every, guide = splice(data, download=True), donor(data, download=True)
    seen, _ = every.split()
    folder, process = out / "splice_models", Absorbing(len(every.alphabet))
    model = train_tokens(folder / "model", seen, process, steps=steps, value_weight=0.3, progress=progress)
    classifier = train_token_classifier(folder / "classifier", seen, process, steps=steps, progress=progress)
    truth = Truth(every)
    rows, examples = [], {}
    for row, tokens in compare(methods(model, classifier) | off_the_shelf(model, guide), truth.measure, samples):
        rows.append(row)
        examples[f"{row.method}, {row.scale:g}"] = text(tokens[0], every.alphabet)
    rows.append(real("the truth: p(x | top decile)", truth.measure(every.tokens[every.labels == LABEL])))
    about = {"data": "MPSA 5' splice sites, mavenn 1.1.4 (MIT)", "guide": "MMSplice donor, mmsplice 2.4.0 (MIT)"}
    write_rows(out / "splice.json", rows, samples=samples, **about)
    return rows, examples


if __name__ == "__main__":
    run(ABOUT, demo)
