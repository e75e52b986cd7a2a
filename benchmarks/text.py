"""Sentiment control against perplexity.  python benchmarks/text.py --data FOLDER [--out FILE]

Rated snippets of film reviews of at most 23 words. Every guide is trained on the same sentences with the same
number of classifier steps; the judges (a bag of words, a language model) on others. Language models: CFG, PPLM, FUDGE,
best-of-n, twisted particles. Embedding diffusion: Diffusion-LM with its control steps, and score interpolation (CDCD)
with CFG or a classifier. Minutes on a GPU, hours on two CPU cores.
"""

import argparse
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import guidance_jax as gj
from guidance_jax.app.demos.table import Method, compare, samples_of, write_rows
from guidance_jax.app.demos.text import POSITIVE, methods, prepare, words_of
from guidance_jax.datasets.sentences import UNKNOWN
from guidance_jax.embeddings import DiffusionLM, EmbeddingNetwork, Rounded
from guidance_jax.embeddings.network import nearest
from guidance_jax.networks.transformer import Transformer
from guidance_jax.training.fit import fit
from guidance_jax.training.losses import LogNormal
from guidance_jax.training.recipe import adamw
from guidance_jax.training.token_losses import EndToEnd, Interpolation, unit_rows

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
        f"{kind}: CFG": row(lambda w: gj.Reverse(gj.CFG(model, null, w), solver), (2.0, 3.0), (2 * steps, 0)),
        f"{kind}: classifier": row(
            lambda w: gj.Reverse(gj.Classifier(free, classifier, w), solver), (1.0, 3.0, 10.0), (steps, 2 * steps)
        ),
        f"{kind}: Diffusion-LM steps": row(
            lambda w: DiffusionLM(free, solver, classifier, w, fluency=0.01, rate=0.03),
            (1.0,),
            (steps, 6 * steps),
        ),
        f"{kind}: Diffusion-LM steps, rounded": row(
            lambda w: DiffusionLM(
                Rounded(free, table, gj.Window(1.0, 0.0, 0.5)),
                solver,
                classifier,
                w,
                fluency=0.01,
                rate=0.03,
            ),
            (1.0,),
            (steps, 6 * steps),
        ),
    }
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="folder with vaderSentiment-3.3.2.tar.gz")
    parser.add_argument("--models", type=Path, default=Path("text_models"))
    parser.add_argument("--out", type=Path, default=Path("text.json"))
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--embedding-steps", type=int, default=8000)
    parser.add_argument("--solver-steps", type=int, default=100)
    parser.add_argument("--table", type=Path, help="print a result and stop")
    args = parser.parse_args()
    if args.table:
        return print(table(json.loads(args.table.read_text())))
    parts = prepare(args.models, args.data, width=args.width, steps=args.steps, progress=True)
    alphabet, length = parts.seen.alphabet, parts.seen.shape[0]
    found = methods(parts.model, parts.prefix, parts.attribute, alphabet)

    common = dict(length=length, width=2 * args.width, depth=6, heads=8, num_classes=3)
    end_to_end = Transformer(DIM, DIM, **common)
    trained = train_embeddings(
        EndToEnd(end_to_end.apply, SCHEDULE, null=2),
        end_to_end,
        parts.seen,
        len(alphabet),
        args.embedding_steps,
        128,
        "Diffusion-LM",
    )
    words = trained["table"]
    model = gj.Network(trained["network"], end_to_end.apply, gj.parameterizations.x0)
    guide = noisy_classifier(words, parts.seen, args.steps // 2, 64)
    found |= embedding_methods("Diffusion-LM", model, words, guide, alphabet, args.solver_steps)

    interpolated = Transformer(DIM, len(alphabet), self_conditioned=True, **common)
    loss = Interpolation(interpolated.apply, SCHEDULE, null=2, levels=LogNormal(0.0, 1.5))
    trained = train_embeddings(loss, interpolated, parts.seen, len(alphabet), args.embedding_steps, 128, "CDCD")
    words = unit_rows(trained["table"])
    model = EmbeddingNetwork(trained["network"], words, interpolated.apply)
    guide = noisy_classifier(words, parts.seen, args.steps // 2, 64)
    found |= embedding_methods("CDCD", model, words, guide, alphabet, args.solver_steps)

    def measure(tokens):
        tokens[:, 0] = 0  # embeddings may round the start token to another
        return parts.judge.measure(tokens)

    rows, examples = [], {}
    for row, tokens in compare(found, measure, args.samples):
        rows.append(row)
        name = f"{row.method}, {row.scale:g}"
        examples[name] = [words_of(t, alphabet) for t in tokens[:3]]
        print(f"{name:45} {row.seconds:5.0f} s", row.measures, examples[name][0], flush=True)
    rows += [parts.real(label) for label in (1, 0)]
    settings = {k: str(v) for k, v in vars(args).items() if k not in ("out", "data", "models", "table")}
    write_rows(args.out, rows, judge_accuracy=parts.judge.accuracy(parts.held_out), examples=examples, **settings)
    print(table(json.loads(args.out.read_text())))


def table(result: dict) -> str:
    """The rows as Markdown."""
    lines = [
        "| method | scale | judged positive | perplexity | distinct pairs | words | calls |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        m = row["measures"]
        lines.append(
            f"| {row['method']} | {row['scale']:g} | {m['positive']:.2f} | {m['perplexity']:.0f} | "
            f"{m['distinct']:.2f} | "
            f"{m['words']:.0f} | {row['model_calls']} + {row['classifier_calls']} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
