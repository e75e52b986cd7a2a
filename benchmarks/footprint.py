"""How long do samplers of the real sizes take to compile, and is their memory foretold?

    python benchmarks/footprint.py [--out FILE]

Nothing is run and no parameters are made. Seconds to compile 50 guided steps; memory by the compiler and foretold from
the program's equations, MiB. On a CPU (JAX 0.10.2) the compiler does not count all that attention takes: alone over
4,096 positions, 8 heads and 2 samples it says 30 MiB where the process grows by 2,083, two copies of the weights, of
which one is foretold.
"""

import argparse
import time

import jax
import jax.numpy as jnp
from timing import write

import guidance_jax as gj
from guidance_jax.footprint import size, temporaries
from guidance_jax.networks.adm import ADMUNet
from guidance_jax.networks.dit import DiT
from guidance_jax.networks.sd_unet import StableDiffusionUNet
from guidance_jax.sample import _generate

CLASSES = gj.Domain((32, 32, 4), gj.LinearBetas(1000), 1000, 1000, guided_channels=3)
PIXELS = gj.Domain((64, 64, 3), gj.CosineBetas(1000), 1000, 1000)


def captions(side, width, vector=None):
    """A domain of captions, and a condition."""
    one = {"context": jnp.zeros((77, width))} | ({} if vector is None else {"vector": jnp.zeros(vector)})
    known = tuple((k, v.shape) for k, v in one.items())
    return gj.Domain((side, side, 4), gj.schedules.ScaledLinearBetas(1000), context=known), one


SD = StableDiffusionUNet(320, 4, 2, (1, 2, 4), (1, 2, 4, 4), num_heads=8)
XL = StableDiffusionUNet(320, 4, 2, (2, 4), (1, 2, 4), num_head_channels=64, transformer_depth=(0, 2, 10), added=True)
ADM = ADMUNet(192, 6, 3, (2, 4, 8), (1, 2, 3, 4), num_head_channels=64, num_classes=1001)
ROWS = {
    "DiT-XL/2, 1 sample": (DiT(), CLASSES, 1000, 1),
    "DiT-XL/2, 8 samples": (DiT(), CLASSES, 1000, 8),
    "DiT-XL/2, 8 samples, blocks unrolled": (DiT(unroll=28), CLASSES, 1000, 8),
    "ADM 64, 4 samples": (ADM, PIXELS, 1000, 4),
    "SD 1.5, 256 pixels, 1 sample": (SD, *captions(32, 768), 1),
    "SD 1.5, 256 pixels, 4 samples": (SD, *captions(32, 768), 4),
    "SD 1.5, 512 pixels, 1 sample": (SD, *captions(64, 768), 1),
    "SDXL, 512 pixels, 1 sample": (XL, *captions(64, 2048, 2816), 1),
    "SDXL, 1024 pixels, 1 sample": (XL, *captions(128, 2048, 2816), 1),
}


def row(network, domain, null, n):
    one = jax.tree.map(jnp.asarray, null)
    params = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros(domain.shape), jnp.zeros(()), one)
    learned = network.out_channels == 2 * domain.shape[-1]
    meaning = gj.parameterizations.LearnedRange() if learned else gj.parameterizations.eps
    model = gj.Network(params, network.apply, meaning, domain, batched=False)
    kernel, keys = gj.Reverse(gj.CFG(model, null, 4.0), gj.DDIM()), gj.keys(0, n)
    cond, levels = jax.tree.map(lambda a: jnp.stack([a] * n), one), domain.schedule.levels(50)
    begin = time.perf_counter()
    program = jax.make_jaxpr(lambda k, c: _generate(keys, k, levels, domain.shape, c, None))(kernel, cond).jaxpr
    foretold = sum(size(v.aval) for v in program.invars) + temporaries(program)
    record = {"foretelling, s": round(time.perf_counter() - begin, 2)}
    begin = time.perf_counter()
    found = _generate.lower(keys, kernel, levels, domain.shape, cond, None).compile().memory_analysis()
    record["compiling, s"] = round(time.perf_counter() - begin, 2)
    compiler = found.argument_size_in_bytes + found.temp_size_in_bytes + found.output_size_in_bytes
    record |= {"compiler, MiB": round(compiler / 2**20), "foretold, MiB": round(foretold / 2**20)}
    return record | {"foretold / compiler": round(foretold / compiler, 3)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out")
    args = parser.parse_args()
    rows = {}
    for name, given in ROWS.items():
        rows[name] = row(*given)
        print(name, rows[name], flush=True)
    write(args.out, rows=rows)


if __name__ == "__main__":
    main()
