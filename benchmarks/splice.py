"""Which guidance for tokens, at which cost?  python benchmarks/splice.py --data FOLDER [--out FILE]

5' splice sites: 30,483 of 32,768 sequences measured, so that samples are judged by what was measured of them. Trains,
on the same 80 % and each in minutes on a CPU, an absorbing, a uniform and a step-unrolled model, noisy classifiers, a
language model and a prefix classifier; then every method asks for the top decile.
"""

import argparse
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import guidance_jax as gj
from guidance_jax.app.demos.splice import FLOW, LABEL, Truth, methods
from guidance_jax.app.demos.table import Method, compare, real, samples_of, write_rows
from guidance_jax.datasets.sequences import Sequences
from guidance_jax.datasets.splice import splice
from guidance_jax.discrete import SUNDAE, TAG, Forbid, PredictorFree, PredictorGuidance, TauLeap
from guidance_jax.networks.sequence_models import token_model
from guidance_jax.networks.transformer import Transformer
from guidance_jax.text import FUDGE
from guidance_jax.training.fit import fit
from guidance_jax.training.recipe import adamw
from guidance_jax.training.sequence_recipe import (
    train_language_model,
    train_prefix_classifier,
    train_token_classifier,
    train_tokens,
)
from guidance_jax.training.token_losses import Unrolled


def uniform_methods(model, classifier, steps):
    length, null = model.domain.shape[0], model.domain.null_label
    free, levels, sites = gj.Unconditional(model, null), FLOW.levels(steps), length * 4 + 1

    def row(make, scales, calls):
        return Method(samples_of(make, levels, (length,), LABEL), scales, calls)

    leap = TauLeap()
    return {
        f"uniform: conditional model, {steps} steps": row(
            lambda w: gj.Reverse(model, gj.Ancestral()), (1.0,), (steps, 0)
        ),
        f"uniform: D-CFG, {steps} steps": row(
            lambda w: gj.Reverse(gj.CFG(model, null, w), gj.Ancestral()), (2.0, 4.0), (2 * steps, 0)
        ),
        f"uniform: predictor-free rates, {steps} steps": row(
            lambda w: gj.Reverse(PredictorFree(model, null, w), leap), (2.0, 4.0), (2 * steps, 0)
        ),
        f"uniform: exact rates, {steps} steps": row(
            lambda w: gj.Reverse(PredictorGuidance(free, classifier, w), leap),
            (1.0, 2.0, 4.0),
            (steps, steps * sites),
        ),
        f"uniform: Taylor rates (TAG), {steps} steps": row(
            lambda w: gj.Reverse(TAG(free, classifier, w), leap), (1.0, 2.0, 4.0), (steps, 2 * steps)
        ),
    }


def unrolled_methods(model, steps):
    length, null = model.domain.shape[0], model.domain.null_label
    return {
        f"SUNDAE, D-CFG, {steps} steps": Method(
            samples_of(
                lambda w: gj.Reverse(gj.CFG(model, null, w), SUNDAE(share=0.3)),
                FLOW.levels(steps),
                (length,),
                LABEL,
            ),
            (1.0, 2.0, 4.0),
            (2 * steps, 0),
        )
    }


def text_methods(model, prefix, length):
    null, levels = model.domain.null_label, gj.positions(length + 1)
    model = Forbid(model, jnp.arange(5) == 0)  # the start token never comes again
    free = gj.Unconditional(model, null)

    def row(make, scales, calls):
        draw = samples_of(make, levels, (length + 1,), LABEL)
        return Method(lambda keys, w: draw(keys, w)[:, 1:] - 1, scales, calls)

    return {
        "left to right: conditional model": row(lambda w: gj.Reverse(model, gj.Ancestral()), (1.0,), (length, 0)),
        "left to right: CFG": row(
            lambda w: gj.Reverse(gj.CFG(model, null, w), gj.Ancestral()), (2.0, 4.0), (2 * length, 0)
        ),
        "left to right: FUDGE": row(
            lambda w: gj.Reverse(FUDGE(free, prefix, w), gj.Ancestral()), (1.0, 2.0, 4.0), (length, 5 * length)
        ),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="folder with mavenn-1.1.4-py3-none-any.whl")
    parser.add_argument("--models", type=Path, default=Path("splice_models"))
    parser.add_argument("--out", type=Path, default=Path("splice.json"))
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--table", type=Path, help="print a result and stop")
    args = parser.parse_args()
    if args.table:
        return print(table(json.loads(args.table.read_text())))
    every = splice(args.data)
    seen, _ = every.split()
    truth, length, begin = Truth(every), every.shape[0], time.perf_counter()
    masks, uniform = gj.Absorbing(4), gj.Uniform(4)
    model = train_tokens(args.models / "masks", seen, masks, steps=args.steps, value_weight=0.3, progress=True)
    seconds = time.perf_counter() - begin
    classifier = train_token_classifier(args.models / "classifier", seen, masks, steps=args.steps, progress=True)
    other = train_tokens(args.models / "uniform", seen, uniform, steps=args.steps, progress=True)
    judge = train_token_classifier(args.models / "uniform_classifier", seen, uniform, steps=args.steps, progress=True)
    # a start token in front, the four bases after it
    shifted = Sequences(np.pad(seen.tokens + 1, ((0, 0), (1, 0))), seen.labels, seen.names, ("<s>", *seen.alphabet))
    language = train_language_model(
        args.models / "language", shifted, width=64, steps=args.steps, batch=256, progress=True
    )
    prefix = train_prefix_classifier(args.models / "prefix", shifted, steps=args.steps, batch=256, progress=True)
    network = Transformer(4, 4, length, width=64, depth=3, num_classes=3)
    unrolled, _ = fit(
        Unrolled(network.apply, uniform, FLOW, null=2),
        network.init(jax.random.key(0), jnp.zeros(length, int), jnp.zeros(()), jnp.zeros((), int)),
        seen,
        steps=args.steps,
        batch=256,
        optimizer=adamw(args.steps, 3e-3),
        ema=0.995,
        progress="SUNDAE           ",
    )
    sundae = token_model(network, unrolled, uniform, gj.Domain((length,), FLOW, 2, null_label=2))
    found = methods(model, classifier) | uniform_methods(other, judge, 32) | unrolled_methods(sundae, 24)
    found |= text_methods(language, prefix, length)
    rows = []
    for row, _ in compare(found, truth.measure, args.samples):
        rows.append(row)
        short = {k: round(v, 3) for k, v in row.measures.items()}
        print(f"{row.method:44} {row.scale:4g} {row.seconds:6.1f} s", short, flush=True)
    rows.append(real("the truth: p(x | top decile)", truth.measure(every.tokens[every.labels == LABEL])))
    write_rows(args.out, rows, samples=args.samples, steps=args.steps, seconds_to_train_the_model=round(seconds))
    print(table(json.loads(args.out.read_text())))


def table(result: dict) -> str:
    """The rows as Markdown."""
    lines = ["| method | scale | log inclusion | in the top decile | diversity | KL (pairs) | unmeasured | calls | s |",
             "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for row in result["rows"]:
        m = row["measures"]
        lines.append(
            f"| {row['method']} | {row['scale']:g} | {m['inclusion']:.2f} | {m['top']:.2f} | {m['diversity']:.2f} | "
            f"{m['kl']:.3f} | "
            f"{m['unmeasured']:.2f} | {row['model_calls']} + {row['classifier_calls']} | {row['seconds']:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
