"""A guided step of a batched Linen U-Net through the library, over the same step written by hand for batches.

python -m benchmarks.own_network [--out results/own_network.json]
"""

import argparse
import json
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import guidance_jax as gj
from benchmarks.timing import alternate, write

N, STEPS, SIDE, NULL, SCALE = 16, 10, 32, 10, 3.0
SCHEDULE = gj.Cosine()


class UNet(nn.Module):
    """(B, H, W, C), (B,), (B,): convolutions, group normalisation, attention at the lowest resolution."""

    width: int = 64

    @nn.compact
    def __call__(self, x, t, y):
        emb = nn.Dense(self.width)(jnp.stack([jnp.sin(9 * t), jnp.cos(9 * t)], -1)) + nn.Embed(11, self.width)(y)
        emb = nn.silu(emb)

        def block(h, width):
            shift = nn.Dense(width)(emb)[:, None, None]
            return nn.silu(nn.GroupNorm(8)(nn.Conv(width, (3, 3))(h)) + shift)

        h1 = block(nn.Conv(self.width, (3, 3))(x), self.width)
        h2 = block(nn.Conv(2 * self.width, (3, 3), (2, 2))(h1), 2 * self.width)
        flat = h2.reshape(h2.shape[0], -1, 2 * self.width)
        h2 = h2 + nn.MultiHeadDotProductAttention(num_heads=4)(flat, flat).reshape(h2.shape)
        up = jax.image.resize(block(h2, self.width), h1.shape, "nearest")
        return nn.Conv(x.shape[-1], (3, 3))(block(jnp.concatenate([up, h1], -1), self.width))


def by_hand(unet, variables, levels, noise, labels):
    """CFG with DDIM as one would write it: both conditions in one batch of 2 N."""
    y = jnp.concatenate([labels, jnp.full_like(labels, NULL)])

    def body(x, inputs):
        t, s = inputs
        eps = unet.apply(variables, jnp.concatenate([x, x]), jnp.full(2 * N, t.t), y)
        c, u = jnp.split(eps, 2)
        eps = u + SCALE * (c - u)
        x0 = (x - t.sigma * eps) / t.alpha
        return s.alpha * x0 + s.sigma * eps, None

    return jax.lax.scan(body, noise, (levels.at(slice(None, -1)), levels.at(slice(1, None))))[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default=str(Path(__file__).parent / "results" / "own_network.json"))
    args = parser.parse_args()
    unet, shape = UNet(), (SIDE, SIDE, 3)
    variables = unet.init(jax.random.key(0), jnp.zeros((1, *shape)), jnp.zeros(1), jnp.zeros(1, int))
    model = gj.from_linen(unet, variables, gj.parameterizations.eps)
    kernel = gj.Reverse(gj.CFG(model, NULL, SCALE), gj.DDIM())
    levels, labels = SCHEDULE.levels(STEPS, 0.99), jnp.arange(N) % 10
    noise = jax.random.normal(jax.random.key(1), (N, *shape))
    hand = jax.jit(lambda v, x, y: by_hand(unet, v, levels, x, y))
    runs = {
        "library": lambda: gj.generate(gj.keys(0, N), kernel, levels, shape, labels, noise),
        "by hand": lambda: hand(variables, noise, labels),
    }
    a, b = (np.asarray(run()) for run in runs.values())
    seconds = alternate(runs)
    results = {
        "samples": N,
        "steps": STEPS,
        "parameters": sum(int(np.size(leaf)) for leaf in jax.tree.leaves(variables)),
        "milliseconds per step": {name: round(1e3 * t / STEPS, 2) for name, t in seconds.items()},
        "library over by hand": round(seconds["library"] / seconds["by hand"], 3),
        "largest difference over largest entry": float(np.abs(a - b).max() / np.abs(b).max()),
    }
    print(json.dumps(results, indent=1))
    write(args.out, **results)


if __name__ == "__main__":
    main()
