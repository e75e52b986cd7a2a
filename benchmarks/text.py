"""Film reviews: guidance of text and of embeddings."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import guidance_jax as gj
from benchmarks.suite import Row, benchmark
from benchmarks.sweep import DRAWN, VALIDATION, estimates, family, sweep
from guidance_jax.app.recipe import adamw
from guidance_jax.embeddings import DiffusionLM, EmbeddingNetwork, Rounded
from guidance_jax.embeddings.network import nearest
from guidance_jax.training.fit import fit
from guidance_jax.training.losses import LogNormal
from guidance_jax.training.token_losses import EndToEnd, Interpolation, unit_rows
from guidance_jax.zoo.transformer import Transformer
from released.sentences import UNKNOWN
from table import Method, samples_of
from text import POSITIVE, bag_of_words, methods, prepare

SCHEDULE = gj.Cosine()
DIM = 32


def train_embeddings(loss, network, data, size, steps, batch, title):
    """{"network", "table"} by one of the embedding losses."""
    length = data.shape[0]
    first, second = jax.random.split(jax.random.key(0))
    zero = jnp.zeros((length, DIM))
    params = {
        "network": network.init(
            first, zero, jnp.zeros(()), jnp.zeros((), int), zero if network.self_conditioned else None
        ),
        "table": jax.random.normal(second, (size, DIM)),
    }
    found, losses = fit(
        loss, params, data, steps=steps, batch=batch, optimizer=adamw(steps, 1e-3), ema=0.999, progress=title
    )
    print(f"{title}: loss {np.mean(losses[-200:]):.3f}", flush=True)
    return found


@gj.pytree
class Noisy:
    """log p(label | x_t) of noisy embeddings."""

    params: object

    def __call__(self, x, level, label):
        net = CLASSIFIER
        h = net.apply(self.params, x, level.t, method="encode")
        return jax.nn.log_softmax(net.apply(self.params, h, method="value"))[label]


CLASSIFIER = Transformer(DIM, 1, 24, width=64, depth=1, values=2)


class NoisyEmbeddings:
    """-log p(y | x_t) of noisy embeddings of a fixed table, as a loss."""

    def __init__(self, table):
        self.table = table

    def __call__(self, params, key, x0, label):
        first, second = jax.random.split(key)
        level = SCHEDULE(jax.random.uniform(first, minval=1e-3, maxval=0.999))
        clean = self.table[x0]
        x = level.noise(clean, jax.random.normal(second, clean.shape))
        return -Noisy(params)(x, level, label)


def noisy_classifier(table, data, steps, batch):
    length = data.shape[0]
    params = CLASSIFIER.init(jax.random.key(1), jnp.zeros((length, DIM)), jnp.zeros(()))
    found, _ = fit(
        NoisyEmbeddings(table), params, data, steps=steps, batch=batch, optimizer=adamw(steps, 2e-3), ema=0.995
    )
    return Noisy(found)


def embedding_methods(kind, model, table, classifier, alphabet, steps):
    """Guided embedding diffusion: what comes out is rounded to the nearest words."""
    length, null, levels = 24, 2, gj.schedules.log_snr_uniform(SCHEDULE, steps, lo=0.05, hi=50.0)
    allowed = jnp.asarray([w != UNKNOWN for w in alphabet])
    free, round_ = gj.Unconditional(model, null), jax.jit(lambda x: nearest(x, jnp.where(allowed[:, None], table, 1e3)))

    def row(make, scales, calls):
        draw = samples_of(make, levels, (length, DIM), POSITIVE)
        return Method(lambda keys, w: np.asarray(round_(draw(keys, w))).astype(np.int32), scales, calls)

    solver = gj.DDIM(1.0)
    found = {
        f"{kind}: no guidance": row(lambda w: gj.Reverse(free, solver), (0.0,), (steps, 0)),
        f"{kind}: conditional model": row(lambda w: gj.Reverse(model, solver), (1.0,), (steps, 0)),
        f"{kind}: CFG": row(lambda w: gj.Reverse(gj.CFG(model, null, w), solver), (1.5, 2.0, 3.0, 5.0), (2 * steps, 0)),
        f"{kind}: classifier": row(
            lambda w: gj.Reverse(gj.Classifier(free, classifier, w), solver),
            (1.0, 3.0, 10.0, 30.0),
            (steps, 2 * steps),
        ),
        f"{kind}: Diffusion-LM steps (strength: their rate)": row(
            lambda rate: DiffusionLM(free, solver, classifier, 1.0, fluency=0.01, rate=rate), RATES, (steps, 6 * steps)
        ),
        f"{kind}: Diffusion-LM steps, rounded (strength: their rate)": row(
            lambda rate: DiffusionLM(
                Rounded(free, table, gj.Window(1.0, 0.0, 0.5)), solver, classifier, 1.0, fluency=0.01, rate=rate
            ),
            RATES,
            (steps, 6 * steps),
        ),
    }
    return found


RATES = (0.003, 0.01, 0.03, 0.1)
STRENGTHS = {
    "CFG on logits": (1.5, 2.0, 3.0, 5.0, 8.0),
    "PPLM (scale: its rate)": (0.02, 0.05, 0.1, 0.2, 0.4, 0.8),
    "PPLM, top 10 (scale: its rate)": (0.1, 0.2, 0.4, 0.8, 1.6),
    "PPLM, top 10, KL weight 0.5 (scale: its rate)": (0.4, 0.8, 1.6, 3.2),
    "FUDGE": (0.5, 1.0, 2.0, 4.0),
    "twisted particles, 8": (0.5, 1.0, 2.0, 4.0),
}
CURVES = (
    "CFG on logits",
    "PPLM (scale: its rate)",
    "PPLM, top 10 (scale: its rate)",
    "PPLM, top 10, KL weight 0.5 (scale: its rate)",
    "FUDGE",
    "twisted particles, 8",
    "Diffusion-LM: CFG",
    "Diffusion-LM: Diffusion-LM steps (strength: their rate)",
    "CDCD: CFG",
    "CDCD: classifier",
)


def unguided(name):
    """The method without guidance on the same model, drawing from as many tokens."""
    kind, colon, _ = name.partition(": ")
    if "top 10" in name:
        return "no guidance, top 10"
    return f"{kind}: no guidance" if colon and kind in ("Diffusion-LM", "CDCD") else "no guidance"


@benchmark(
    quick={"samples": 4, "steps": 2, "width": 16, "embedding_steps": 2, "embedding_width": 16, "solver_steps": 3},
    **DRAWN,
)
def text(
    data: Path | None = None,
    folder: Path = Path("text_models"),
    samples: int = 200,
    steps: int = 500,
    width: int = 128,
    embedding_steps: int = 3000,
    embedding_width: int = 128,
    solver_steps: int = 50,
    known: list = (),
) -> Iterator[Row]:
    """Which guidance of text controls its sentiment, at which perplexity?

    Rated snippets of film reviews of at most 23 words. Every guide is trained on the same sentences with the same
    number of classifier steps; the judges (two bags of words, a language model) on others. Language models: CFG, PPLM,
    FUDGE, best-of-n, twisted particles. Embedding diffusion: Diffusion-LM with its control steps, and score
    interpolation (CDCD) with CFG or a classifier. The strength of each is the one that the validation judge finds most
    positive among those of at most twice the perplexity of the same model without guidance; the other judge reports
    `samples` of each seed (`sweep.py`). `--data`: the folder with vaderSentiment-3.3.2.tar.gz.
    """
    parts = prepare(folder, data, width=width, steps=steps, progress=True)
    alphabet, length = parts.seen.alphabet, parts.seen.shape[0]
    found = methods(parts.model, parts.prefix, parts.attribute, alphabet)

    common = dict(length=length, width=embedding_width, depth=4, heads=4, num_classes=3)
    end_to_end = Transformer(DIM, DIM, **common)
    trained = train_embeddings(
        EndToEnd(end_to_end.apply, SCHEDULE, null=2),
        end_to_end,
        parts.seen,
        len(alphabet),
        embedding_steps,
        64,
        "Diffusion-LM",
    )
    words = trained["table"]
    model = gj.Network(trained["network"], end_to_end.apply, gj.parameterizations.x0, batched=False)
    guide = noisy_classifier(words, parts.seen, steps // 2, 64)
    found |= embedding_methods("Diffusion-LM", model, words, guide, alphabet, solver_steps)

    interpolated = Transformer(DIM, len(alphabet), self_conditioned=True, **common)
    loss = Interpolation(interpolated.apply, SCHEDULE, null=2, levels=LogNormal(0.0, 1.5))
    trained = train_embeddings(loss, interpolated, parts.seen, len(alphabet), embedding_steps, 64, "CDCD")
    words = unit_rows(trained["table"])
    model = EmbeddingNetwork(trained["network"], words, interpolated.apply)
    guide = noisy_classifier(words, parts.seen, steps // 2, 64)
    found |= embedding_methods("CDCD", model, words, guide, alphabet, solver_steps)

    validation = dataclasses.replace(parts.judge, classify=bag_of_words(parts.held_out))
    yield Row({"judge": "judge"}, {"accuracy": parts.judge.accuracy(parts.held_out)})
    yield Row({"judge": "validation"}, {"accuracy": validation.accuracy(parts.judged)})

    def started(name, method):
        own = family(method, samples, STRENGTHS.get(name))

        def draw(seed, strength):
            tokens = own.draw(seed, strength)
            tokens[:, 0] = 0  # embeddings may round the start token to another
            return tokens

        return own._replace(draw=draw)

    families = {name: started(name, method) for name, method in found.items()}
    limits = {
        name: 2 * validation.measure(families[name].draw(VALIDATION, 0.0))["perplexity"]
        for name in dict.fromkeys(map(unguided, families))
    }

    def validate(name, tokens):
        measures = validation.measure(tokens)
        return (-measures["positive"] if measures["perplexity"] <= limits[unguided(name)] else np.inf), measures

    def report(tokens):
        judged = parts.judge.read(tokens)
        return estimates(judged.summary, len(tokens))

    for label in (1, 0):
        own = parts.held_out.tokens[parts.held_out.labels == label]
        yield Row({"sentences": parts.held_out.names[label]}, report(own))
    for name, limit in limits.items():
        yield Row({"limit": name}, {"perplexity": limit})
    yield from sweep(families, validate=validate, report=report, curves=CURVES, known=known)
