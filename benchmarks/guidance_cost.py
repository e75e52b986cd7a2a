"""Is guidance that is switched off free, and what do reused gradients cost?  python -m benchmarks.guidance_cost [--out
FILE]

Whole runs, timed in turn: unguided; guided at every step; guided in a window that is open for a quarter of the steps;
with a gradient every fourth step. For CFG and for classifier guidance.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

import guidance_jax as gj
from benchmarks.timing import alternate, write
from guidance_jax.guidance import Reuse
from guidance_jax.zoo.adm.network import ADMClassifier, ADMUNet


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()

    common = dict(num_res_blocks=1, attention_resolutions=(4,), channel_mult=(1, 2, 2), groups=8, time_scale=1000.0)
    unet, classifier = ADMUNet(24, 1, num_classes=11, **common), ADMClassifier(24, 10, **common)
    shape = (args.size, args.size, 1)
    x, t, y = jnp.zeros(shape), jnp.zeros(()), jnp.zeros((), int)
    model = gj.Network(unet.init(jax.random.key(0), x, t, y), unet.apply, gj.parameterizations.v, batched=False)
    noisy = gj.NoisyClassifier(classifier.init(jax.random.key(1), x, t), classifier.apply, batched=False)
    keys, labels, levels = gj.keys(0, args.batch), jnp.arange(args.batch) % 10, gj.Cosine().levels(args.steps)
    quarter = args.steps // 4
    ratios = np.sqrt(np.asarray(levels.ratio[:-1]) * np.append(np.asarray(levels.ratio[1:-1]), 1e-4))  # between levels
    first = args.steps // 3
    window = gj.Window(2.0, float(ratios[first + quarter - 1]), float(ratios[first - 1]))
    inside = int(np.sum((np.asarray(levels.ratio[:-1]) > window.lo) & (np.asarray(levels.ratio[:-1]) <= window.hi)))
    assert inside == quarter, inside
    plain = gj.Unconditional(model, 10)
    always = gj.Window(2.0, 0.0, 1e9)  # the same program as the window, open throughout
    guides = {
        "unguided": plain,
        "CFG, every step": gj.CFG(model, 10, always),
        "CFG, a quarter of the steps": gj.CFG(model, 10, window),
        "classifier, every step": gj.Classifier(plain, noisy, 2.0),
        "classifier, a quarter of the steps": gj.Classifier(plain, noisy, window),
        "classifier, gradient every fourth step": Reuse(gj.Classifier(plain, noisy, 2.0), 4),
    }

    def run(guide):
        return lambda: gj.generate(keys, gj.Reverse(guide, gj.DDIM()), levels, shape, labels)

    seconds = alternate({name: run(guide) for name, guide in guides.items()}, args.repeats)
    base, ratio = seconds["unguided"], {}
    for name in ("CFG", "classifier"):
        full = seconds[f"{name}, every step"] - base
        ratio[f"{name}, quarter"] = seconds[f"{name}, a quarter of the steps"] / (base + full / 4)
    ratio["reuse, share of the guidance time"] = (seconds["classifier, gradient every fourth step"] - base) / (
        seconds["classifier, every step"] - base
    )
    for name, s in seconds.items():
        print(f"{1e3 * s:8.1f} ms  {name}")
    for name, r in ratio.items():
        print(f"{r:8.2f}  {name}" + (" over unguided + a quarter of the guidance" if "quarter" in name else ""))
    write(args.out, seconds=seconds, ratios=ratio, settings=vars(args))


if __name__ == "__main__":
    main()
