"""Does memory grow with the population, and what does rematerialisation save?  python -m benchmarks.memory [--out FILE]

Peak temporary bytes of the compiled programs (XLA's own plan), not of the process: 10 and 1,000 particles of a 28 x 28
model at once and in microbatches, Monte Carlo draws likewise, and a gradient through the network with `remat`.
"""

import argparse

import jax
import jax.numpy as jnp

import guidance_jax as gj
from benchmarks.timing import write
from guidance_jax.guidance import LGD
from guidance_jax.zoo.adm.network import ADMUNet

SHAPE = (28, 28, 1)


def unet(remat=False):
    common = dict(num_res_blocks=1, attention_resolutions=(4,), channel_mult=(1, 2, 2), groups=8, time_scale=1000.0)
    return ADMUNet(32, 1, num_classes=11, remat=remat, **common)


def brightness(x0, level, cond):
    return jnp.sum(x0)


def megabytes(f, *args) -> float:
    """Temporary memory that the compiled f needs."""
    return jax.jit(f).lower(*args).compile().memory_analysis().temp_size_in_bytes / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out")
    args = parser.parse_args()
    net = unet()
    params = net.init(jax.random.key(0), jnp.zeros(SHAPE), jnp.zeros(()), jnp.zeros((), int))
    levels, key = gj.Cosine().levels(10), jax.random.key(0)
    rows = {}

    def model(remat=False):
        return gj.Network(params, unet(remat).apply, gj.parameterizations.v, batched=False)

    def population(n, microbatch, move):
        kernel = gj.SMC(move, microbatch=microbatch)
        x = jax.ShapeDtypeStruct((n, *SHAPE), jnp.float32)
        return megabytes(lambda x: gj.sample(key, kernel, levels, x, 3).x, x)

    steered = gj.Steered(model(), gj.DDIM(1.0), brightness)
    twisted = gj.Twisted(model(), gj.DDIM(1.0), brightness)
    for name, move in (("steered", steered), ("twisted", twisted)):
        for n, microbatch in ((10, None), (1000, 10), (1000, None)):
            how = "at once" if microbatch is None else f"{microbatch} at a time"
            rows[f"{name}, {n} particles, {how}"] = population(n, microbatch, move)

    def judged(x0, level, cond):  # a likelihood that costs memory: the network itself
        return jnp.sum(net.apply(params, x0, level.t, cond))

    x = jax.ShapeDtypeStruct(SHAPE, jnp.float32)
    for draws, microbatch in ((8, None), (128, 8), (128, None)):
        guide = LGD(model(), judged, draws=draws, microbatch=microbatch)
        how = "at once" if microbatch is None else f"{microbatch} at a time"
        rows[f"LGD, {draws} draws, {how}"] = megabytes(
            lambda x, g=guide: gj.sample(key, gj.Reverse(g, gj.DDIM()), levels, x, 3).x, x
        )

    batch = jax.ShapeDtypeStruct((16, *SHAPE), jnp.float32)
    for remat in (False, True):
        guide = gj.Reconstruction(model(remat), brightness)
        run = jax.vmap(lambda x, g=guide: gj.sample(key, gj.Reverse(g, gj.DDIM()), levels, x, 3).x)
        rows[f"gradient through the network, 16 samples, remat {'on' if remat else 'off'}"] = megabytes(run, batch)
    for name, size in rows.items():
        print(f"{size:9.1f} MB  {name}")
    write(args.out, megabytes=rows)


if __name__ == "__main__":
    main()
