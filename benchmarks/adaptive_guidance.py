"""What AdaptiveGuidance spares on the digits that ship, and how far it is from CFG.

    python -m benchmarks.adaptive_guidance --out benchmarks/results/adaptive_guidance.json

For each threshold: the share of unconditional calls that are left out, and the distance to CFG's samples, in units of
the distance between CFG and the conditional model. The paper (arXiv 2312.12487) reports 25 % of all calls spared, that
is half of the unconditional ones, on latents of text-to-image models.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

import guidance_jax as gj
from benchmarks.timing import write
from guidance_jax.guidance import AdaptiveGuidance


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--scale", type=float, default=3.0)
    args = parser.parse_args()
    model, _ = gj.examples.digits()
    levels, labels = gj.Cosine().levels(args.steps), jnp.arange(args.samples) % 10
    keys, shape = gj.keys(0, args.samples), (8, 8, 1)

    @jax.jit
    def drawn(guided):
        def one(key, label):
            first, rest = jax.random.split(key)
            kernel, x = gj.Reverse(guided, gj.DDIM()), gj.core.GaussianDiffusion().start(first, levels, shape)
            carry, on = gj.sample(rest, kernel, levels, x, label, record=lambda carry: carry.model_state[1].on)
            return carry.x, jnp.concatenate([jnp.ones(1, bool), on[:-1]])

        return jax.vmap(one)(keys, labels)

    def of(threshold):
        return drawn(AdaptiveGuidance(model, 10, args.scale, threshold=threshold))

    cfg = np.asarray(of(2.0)[0])
    conditional = np.asarray(gj.generate(keys, gj.Reverse(model, gj.DDIM()), levels, shape, labels))
    apart = np.sqrt(np.mean((cfg - conditional) ** 2))
    found = gj.diagnostics.guidance_by_level(keys, model, gj.Unconditional(model, 10), gj.DDIM(), levels, shape, labels)
    rows = []
    for threshold in (0.98, 0.985, 0.9875, 0.99, 0.995, 0.998, 0.9995):
        x, on = map(np.asarray, of(threshold))
        rows.append(
            {
                "threshold": threshold,
                "unconditional calls spared": float(1 - on.mean()),
                "distance to CFG": float(np.sqrt(np.mean((x - cfg) ** 2)) / apart),
            }
        )
        print(rows[-1])
    cosines = [{"sigma / alpha": level.ratio, "cosine": level.agreement} for level in found]
    write(args.out, options=vars(args), rows=rows, cosines=cosines)


if __name__ == "__main__":
    main()
