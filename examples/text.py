"""Sentences with a wanted sentiment, from a small language model trained on the spot, judged by what never guided
it."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import Refused, log_softmax, pytree
from guidance_jax.datasets.sequences import Sequences, text
from guidance_jax.discrete.ancestral import Ancestral
from guidance_jax.discrete.forbid import Forbid
from guidance_jax.guidance.cfg import CFG
from guidance_jax.kernels.reverse import Reverse
from guidance_jax.models.adapters import Unconditional
from guidance_jax.particles.best_of import BestOf
from guidance_jax.particles.twisted import Twisted
from guidance_jax.text.fudge import FUDGE
from guidance_jax.text.language_model import LanguageModel
from guidance_jax.text.pplm import PPLM
from guidance_jax.text.sequence import positions
from guidance_jax.training.token_losses import before_end
from recipes import train_language_model, train_prefix_classifier
from released.sentences import START, UNKNOWN, sentences
from table import About, Method, Row, compare, one_of_population, real, run, samples_of, write_rows

ABOUT = About(
    ("text.json",),
    "Positive film reviews, judged by a classifier that guided nothing",
    "positive: share that the judge calls so; perplexity: of another language model.",
    {"steps": 20},
)

POSITIVE = 1


def words_of(tokens: Any, alphabet: tuple[str, ...]) -> str:
    """The sentence of one sequence: between the start token and the next."""
    tokens = np.asarray(tokens)[1:]
    ends = np.flatnonzero(tokens == alphabet.index(START))
    return text(tokens[: ends[0]] if ends.size else tokens, alphabet, " ")


def bag_of_words(data: Sequences) -> Callable[[list[str]], np.ndarray]:
    """Sentences -> p(positive), by logistic regression on words and pairs of words.

    Raises:
      Refused: scikit-learn is not installed.
    """
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
    except ModuleNotFoundError:
        raise Refused('the judge of sentences is scikit-learn\'s; pip install "guidance_jax[demo]"') from None
    pipeline = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10.0))
    pipeline.fit([words_of(t, data.alphabet) for t in data.tokens], data.labels)
    return lambda found: pipeline.predict_proba(found)[:, POSITIVE]


class Judged(NamedTuple):
    """What a judge says of each of n sentences."""

    positive: np.ndarray  # whether it is judged so
    loss: np.ndarray  # nats of the language model, the end included
    tokens: np.ndarray  # how many, the end included
    words: list[list[str]]

    def summary(self, rows: np.ndarray | None = None) -> dict[str, float]:
        """positive: share that is judged so; perplexity: exp of the mean loss a token; distinct: share of different
        word pairs; words: mean length."""
        rows = np.arange(len(self.words)) if rows is None else rows
        chosen = [self.words[i] for i in rows]
        pairs = [pair for words in chosen for pair in pairwise(words)]
        return {
            "positive": float(np.mean(self.positive[rows])),
            "perplexity": float(np.exp(self.loss[rows].sum() / self.tokens[rows].sum())),
            "distinct": len(set(pairs)) / max(len(pairs), 1),
            "words": float(np.mean([len(words) for words in chosen])),
        }


@dataclass(frozen=True)
class TextJudge:
    """Measures sentences by a bag-of-words classifier and a language model that no method has seen the inside of.

    Attributes:
      classify: sentences -> p(positive).
      model: a language model of its own seed and size, for perplexity.
      alphabet: its words.
    """

    classify: Callable[[list[str]], np.ndarray]
    model: LanguageModel
    alphabet: tuple[str, ...]

    @classmethod
    def train(
        cls, folder: Path, data: Sequences, texts: Sequences, *, width: int, steps: int, progress: bool = False
    ) -> "TextJudge":
        """The classifier learns from `data`, which guides must not see, the language model from `texts`.

        Raises:
          Refused: scikit-learn is not installed.
        """
        classify = bag_of_words(data)
        model = train_language_model(folder, texts, width=width, steps=steps, seed=7, progress=progress)
        return cls(classify, model, data.alphabet)

    def accuracy(self, data: Sequences) -> float:
        """The share of sentences of which the classifier knows the label."""
        found = self.classify([words_of(t, self.alphabet) for t in data.tokens]) > 0.5
        return float(np.mean(found == data.labels))

    def read(self, tokens: np.ndarray) -> Judged:
        """What it says of each sentence (n, L)."""
        found = [words_of(t, self.alphabet) for t in tokens]
        return Judged(self.classify(found) > 0.5, *losses(self.model, tokens), [s.split() for s in found])

    def measure(self, tokens: np.ndarray) -> dict[str, float]:
        """`Judged.summary` of all."""
        return self.read(tokens).summary()


def losses(model: LanguageModel, tokens: Any) -> tuple[np.ndarray, np.ndarray]:
    """(nats, tokens) of each sentence, up to and with the end, under the unconditional model."""
    network = model.apply.module  # type: ignore[attr-defined]
    null = model.domain.null_label if model.domain is not None else None

    @jax.jit
    @jax.vmap
    def each(x):
        log_p = log_softmax(network.apply(model.params, x, None if null is None else jnp.asarray(null))[0])
        counts = before_end(x, model.process.first)[1:]
        own = jnp.take_along_axis(log_p[:-1], x[1:, None], 1)[:, 0]
        return -jnp.sum(own * counts), jnp.sum(counts)

    tokens = jnp.asarray(tokens, jnp.int32)
    sums, counts = zip(*(each(tokens[i : i + 256]) for i in range(0, len(tokens), 256)), strict=True)
    return np.concatenate(sums), np.concatenate(counts)


@pytree
class MeanHidden:
    """log p(label | mean hidden state) of a linear classifier: PPLM's discriminator."""

    weights: Any  # (width, classes)
    bias: Any

    def __call__(self, log_p, hidden, label):
        return log_softmax(hidden @ self.weights + self.bias)[label]

    @classmethod
    def fit(cls, model: LanguageModel, data: Sequences) -> "MeanHidden":
        """Logistic regression on the frozen language model's mean hidden states of whole sentences."""
        from sklearn.linear_model import LogisticRegression

        network = model.apply.module  # type: ignore[attr-defined]
        null = jnp.asarray(model.domain.null_label)  # type: ignore[union-attr]

        @jax.jit
        @jax.vmap
        def mean(x):
            counts = before_end(x, model.process.first)[:, None]
            return jnp.sum(network.apply(model.params, x, null)[1] * counts, 0) / jnp.sum(counts)

        states = np.concatenate([mean(jnp.asarray(data.tokens[i : i + 256])) for i in range(0, len(data), 256)])
        fitted = LogisticRegression(C=1.0, max_iter=2000).fit(states, data.labels)
        slope = jnp.asarray(np.stack([0 * fitted.coef_[0], fitted.coef_[0]], 1), jnp.float32)
        return cls(slope, jnp.asarray([0.0, fitted.intercept_[0]], jnp.float32))


def methods(
    model: LanguageModel, prefix: Any, attribute: Any, alphabet: tuple[str, ...], particles: int = 8
) -> dict[str, Method]:
    """Every autoregressive method, nucleus sampling with top_p 0.95 unless it says so; unknown words are forbidden.

    PPLM is there with the ten likeliest tokens too, as its authors draw: what it moves is less perplexing then.
    """
    assert model.domain is not None
    length, null = model.context or 0, model.domain.null_label
    solver, levels = Ancestral(top_p=0.95), positions(length)
    conditional = Forbid(model, jnp.asarray([w == UNKNOWN for w in alphabet]))
    free = Unconditional(conditional, null)
    top, tokens = 100, length - 1

    def kernel(make):
        return samples_of(make, levels, (length,), POSITIVE)

    def population(move):
        return one_of_population(move, levels, (length,), POSITIVE, particles)

    ten = Ancestral(top_k=10)

    def pplm(solver, kl=0.01):
        def of(rate):
            return Reverse(PPLM(free, attribute, 1.0, rate, kl=kl, fusion=0.95, steps=10, ahead=True), solver)

        return kernel(of)

    return {
        "no guidance": Method(kernel(lambda w: Reverse(free, solver)), (0.0,), (tokens, 0)),
        "conditional model": Method(kernel(lambda w: Reverse(conditional, solver)), (1.0,), (tokens, 0)),
        "CFG on logits": Method(
            kernel(lambda w: Reverse(CFG(conditional, null, w), solver)), (1.5, 2.0, 3.0), (2 * tokens, 0)
        ),
        "PPLM (scale: its rate)": Method(pplm(solver), (0.05, 0.1, 0.2), (32 * tokens, 10 * tokens)),
        "no guidance, top 10": Method(kernel(lambda w: Reverse(free, ten)), (0.0,), (tokens, 0)),
        "PPLM, top 10 (scale: its rate)": Method(pplm(ten), (0.2, 0.8), (32 * tokens, 10 * tokens)),
        "PPLM, top 10, KL weight 0.5 (scale: its rate)": Method(pplm(ten, 0.5), (0.8,), (32 * tokens, 10 * tokens)),
        "FUDGE": Method(
            kernel(lambda w: Reverse(FUDGE(free, prefix, w, top), solver)),
            (1.0, 2.0, 4.0),
            (tokens, (top + 1) * tokens),
        ),
        f"best of {particles}": Method(
            population(lambda w: BestOf(Reverse(free, solver), prefix.log_prob, w)),
            (10.0,),
            (particles * tokens, particles),
        ),
        f"twisted particles, {particles}": Method(
            population(lambda w: Twisted(free, solver, prefix, w, noisy=True)),
            (1.0, 2.0),
            (particles * tokens, particles * tokens),
        ),
    }


@dataclass(frozen=True)
class Parts:
    """Everything a text experiment needs: data in three parts, models, and a judge."""

    seen: Sequences
    judged: Sequences
    held_out: Sequences
    model: LanguageModel
    prefix: Any
    attribute: MeanHidden
    judge: TextJudge

    def real(self, label: int) -> Row:
        """The line of held-out sentences of one label."""
        chosen = self.held_out.tokens[self.held_out.labels == label]
        return real(f"real {self.held_out.names[label]} sentences", self.judge.measure(chosen))


def prepare(
    folder: Path, data: str | Path | None, *, width: int = 128, steps: int = 500, progress: bool = True
) -> Parts:
    """Split the sentences (guides and models / judge / held out: 60, 20 and 20 %) and train everything."""
    every = sentences(data, "films")
    rest, held_out = every.split(0.2)
    seen, judged = rest.split(0.25, seed=1)
    model = train_language_model(folder / "language", seen, width=width, steps=steps, progress=progress)
    prefix = train_prefix_classifier(folder / "prefix", seen, steps=steps // 2, progress=progress)
    judge = TextJudge.train(folder / "judge", judged, rest, width=width, steps=steps, progress=progress)
    return Parts(seen, judged, held_out, model, prefix, MeanHidden.fit(model, seen), judge)


def demo(
    out: Path,
    data: str | Path | None = None,
    *,
    samples: int = 100,
    steps: int = 500,
    progress: bool = True,
) -> tuple[list[Row], dict[str, str]]:
    """Train (or reuse `out`/text_models), sample every method asked for positive sentences, write `text.json` to `out`.

    Returns:
      (the table, one sentence of every line).

    Raises:
      Refused: the data file is missing; the message says how to get it.
    """
    parts = prepare(out / "text_models", data, steps=steps, progress=progress)
    alphabet, rows, examples = parts.seen.alphabet, [], {}
    found = methods(parts.model, parts.prefix, parts.attribute, alphabet)
    for row, tokens in compare(found, parts.judge.measure, samples):
        rows.append(row)
        examples[f"{row.method}, {row.scale:g}"] = words_of(tokens[0], alphabet)
    rows.append(parts.real(POSITIVE))
    write_rows(
        out / "text.json",
        rows,
        data="rated film reviews, vaderSentiment 3.3.2",
        samples=samples,
        judge=parts.judge.accuracy(parts.held_out),
    )
    return rows, examples


if __name__ == "__main__":
    run(ABOUT, demo)
