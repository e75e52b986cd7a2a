"""How near is a guided step to what the machine can do, and what does compiling cost?  python -m benchmarks.roofline

Achieved GFLOP/s of a classifier-guided step, by XLA's count of its operations, over two measured peaks of this machine:
a large matrix product, and the convolution that the network has most of. Then the time to compile the whole sampler
over that of what no sampler can do without: the network's forward pass and the classifier's gradient.
"""

import argparse
import time

import jax
import jax.numpy as jnp

import guidance_jax as gj
from benchmarks.peers import NULL, SCALE, TASKS, jax_networks, levels
from benchmarks.timing import alternate, write
from guidance_jax.sample import _generate, prepare
from guidance_jax.zoo.convolution import conv2d


def flops(compiled):
    found = compiled.cost_analysis()
    return (found[0] if isinstance(found, list) else found)["flops"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out")
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    task = TASKS["adm"]
    apply, params, classify, guide = jax_networks(task)
    kernel = gj.Reverse(
        gj.Classifier(
            gj.Unconditional(gj.Network(params, apply, gj.parameterizations.eps, batched=False), NULL),
            gj.NoisyClassifier(guide, classify, batched=False),
            SCALE,
        ),
        gj.DDIM(),
    )
    n, shape, lv = task.batch, task.shape, gj.Level(*(jnp.asarray(a, jnp.float32) for a in levels(task.steps)))
    keys, labels, level = gj.keys(0, n), jnp.arange(n) % 10, lv.at(4)
    xs = jax.random.normal(jax.random.key(2), (n, *shape))

    def bare(params, guide, xs, labels):
        out = jax.vmap(lambda x: apply(params, x, level.t, jnp.array(NULL)))(xs)
        gradient = jax.grad(gj.NoisyClassifier(guide, classify, batched=False).log_prob)
        return out, jax.vmap(gradient, (0, None, 0))(xs, level, labels)

    def compiled(lower):
        begin = time.perf_counter()
        return lower().compile(), time.perf_counter() - begin

    program = _generate, (*prepare(keys, kernel, lv, shape, labels), shape, labels, None)
    compiling = {"sampler": [], "networks": []}
    for _ in range(3):
        jax.clear_caches()
        one, seconds = compiled(lambda: jax.jit(bare).lower(params, guide, xs, labels))
        compiling["networks"].append(seconds)
        jax.clear_caches()
        compiling["sampler"].append(compiled(lambda: program[0].lower(*program[1]))[1])
    compile_seconds = {name: sorted(found)[1] for name, found in compiling.items()}

    a = jnp.ones((2048, 2048))
    w, image = jnp.ones((3, 3, task.width, task.width)), jnp.ones((n, 32, 32, task.width))
    matmul, conv = jax.jit(lambda a: a @ a), jax.jit(jax.vmap(conv2d, (0, None)))
    seconds = alternate(
        {
            "guided step": lambda: gj.generate(keys, kernel, lv, shape, labels),
            "networks alone": lambda: one(params, guide, xs, labels),
            "matmul": lambda: matmul(a),
            "convolution": lambda: conv(image, w),
        },
        args.repeats,
    )
    seconds["guided step"] /= task.steps
    work = {
        "guided step": flops(one),
        "networks alone": flops(one),
        "matmul": 2 * 2048**3,
        "convolution": 2 * n * 32**2 * 9 * task.width**2,
    }
    rate = {name: work[name] / seconds[name] / 1e9 for name in work}
    print(f"JAX {jax.__version__}, {jax.devices()[0]}")
    for name, value in rate.items():
        share = f"{value / rate['matmul']:5.2f} of matmul, {value / rate['convolution']:5.2f} of convolution"
        print(f"{value:8.0f} GFLOP/s  {share}  {name} ({1e3 * seconds[name]:.1f} ms)")
    ratio = compile_seconds["sampler"] / compile_seconds["networks"]
    print(f"compiling: {compile_seconds}, ratio {ratio:.2f}")
    milliseconds = {name: 1e3 * value for name, value in seconds.items()}
    found = {"gflops": rate, "milliseconds": milliseconds, "compile_seconds": compile_seconds, "compile_ratio": ratio}
    write(args.out, **found, settings=vars(args))


if __name__ == "__main__":
    main()
