"""Are Taylor rates worth it, and does decoding stay linear?  python -m benchmarks.token_speed [--out FILE]

One guided step on 75 tokens of 4 letters, exact against Taylor rates; text of 128 tokens, 256 sequences, in two halves.
"""

import argparse

import jax
import jax.numpy as jnp

import guidance_jax as gj
from benchmarks.timing import alternate, write
from guidance_jax.discrete import TAG, PredictorGuidance, TauLeap
from guidance_jax.sample import _generate
from guidance_jax.zoo.sequence_models import language_model, token_classifier, token_model
from guidance_jax.zoo.transformer import GPT2, Transformer


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch", type=int, default=4)
    args = parser.parse_args()
    length, process, schedule = 75, gj.Absorbing(4), gj.RectifiedFlow()
    zeros = jnp.zeros(length, int)
    network = Transformer(5, 4, length, num_classes=11)
    model = token_model(network, network.init(jax.random.key(0), zeros, jnp.zeros(()), jnp.zeros((), int)), process)
    judge = Transformer(5, 4, length, depth=2, values=10)
    classifier = token_classifier(judge, judge.init(jax.random.key(1), zeros, jnp.zeros(())))
    keys, labels, levels = gj.keys(0, args.batch), jnp.zeros(args.batch, int), schedule.levels(2)
    free = gj.Unconditional(model, 10)

    def steps(guided):
        kernel = gj.Reverse(guided, TauLeap())
        return lambda: gj.generate(keys, kernel, levels, (length,), labels)

    times = alternate(
        {
            "unguided": steps(free),
            "exact rates": steps(PredictorGuidance(free, classifier, 1.0)),
            "Taylor rates": steps(TAG(free, classifier, 1.0)),
        },
        args.repeats,
    )
    added = {k: v - times["unguided"] for k, v in times.items()}
    ratio = added["exact rates"] / added["Taylor rates"]
    for name, seconds in times.items():
        print(f"{name:13} {1000 * seconds / 2:8.1f} ms a step of {args.batch} x {length} x 4")
    print(
        f"exact rates cost {times['exact rates'] / times['Taylor rates']:.0f} times a Taylor step; "
        f"guidance alone {ratio:.0f} times"
    )

    context, n = 128, 256
    gpt = GPT2(500, context, width=128, depth=4)
    text = language_model(gpt, gpt.init(jax.random.key(2), jnp.zeros(context, int)))
    kernel, levels = gj.Reverse(text, gj.Ancestral(top_k=40)), gj.positions(context)
    before = _generate._cache_size()
    gj.generate(gj.keys(0, n), kernel, levels, (context,))
    compiled = _generate._cache_size() - before
    half = context // 2

    @jax.jit
    def run(carry, levels, keys):
        def one(carry, key):
            def body(carry, inputs):
                t, s, k = inputs
                return kernel(carry, t, s, None, k), None

            steps = len(levels.t) - 1
            inputs = levels.at(slice(None, -1)), levels.at(slice(1, None)), jax.random.split(key, steps)
            return jax.lax.scan(body, carry, inputs)[0]

        return jax.vmap(one)(carry, keys)

    begin = jax.vmap(kernel.init)(jnp.zeros((n, context), jnp.int32))
    early, late = levels.at(slice(0, half)), levels.at(slice(context - half, context))
    middle = run(begin, early, gj.keys(0, n))
    halves = alternate(
        {
            "first half": lambda: run(begin, early, gj.keys(0, n)),
            "second half": lambda: run(middle, late, gj.keys(0, n)),
        },
        args.repeats,
    )
    growth = halves["second half"] / halves["first half"]
    per_token = 1000 * halves["first half"] / (half - 1)
    print(
        f"decoding {n} x {context}: {compiled} compile, {per_token:.1f} ms a position, "
        f"second half over first {growth:.2f}"
    )
    settings = {"length": length, "letters": 4, "batch": args.batch, "sequences": n, "context": context}
    decoding = {"compiles": compiled, "seconds": halves, "second_over_first": growth}
    write(
        args.out,
        settings=settings,
        seconds=times,
        exact_over_taylor=times["exact rates"] / times["Taylor rates"],
        decoding=decoding,
    )


if __name__ == "__main__":
    main()
