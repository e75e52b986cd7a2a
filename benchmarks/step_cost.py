"""What does a guided step cost over the bare networks?  python -m benchmarks.step_cost [--out FILE]

The whole sampler, divided by its steps, over one jitted call of what a step cannot do without: the diffusion network's
forward pass plus the classifier's value and gradient. Networks and guide of the size of an ADM for 32 x 32.
"""

import argparse

import jax
import jax.numpy as jnp

import guidance_jax as gj
from benchmarks.timing import alternate, write
from guidance_jax.zoo.adm.network import ADMClassifier, ADMUNet


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument(
        "--width", type=int, default=64, help="channels of the diffusion network; the classifier has half"
    )
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()

    common = dict(num_res_blocks=1, attention_resolutions=(2, 4), channel_mult=(1, 2, 2), num_head_channels=32)
    unet = ADMUNet(args.width, 3, **common, num_classes=11, time_scale=1000.0)
    classifier = ADMClassifier(args.width // 2, 10, **common, time_scale=1000.0)
    shape = (args.size, args.size, 3)
    x, t, y = jnp.zeros(shape), jnp.zeros(()), jnp.zeros((), int)
    params, guide = unet.init(jax.random.key(0), x, t, y), classifier.init(jax.random.key(1), x, t)
    sizes = [sum(a.size for a in jax.tree.leaves(p)) for p in (params, guide)]

    model, noisy = (
        gj.Network(params, unet.apply, gj.parameterizations.v, batched=False),
        gj.NoisyClassifier(guide, classifier.apply, batched=False),
    )
    keys, labels, levels = gj.keys(0, args.batch), jnp.arange(args.batch) % 10, gj.Cosine().levels(args.steps)
    xs = jax.random.normal(jax.random.key(2), (args.batch, *shape))
    level = levels.at(args.steps // 2)

    @jax.jit
    def bare(params, guide, xs, labels):
        out = jax.vmap(lambda x: unet.apply(params, x, level.t, jnp.array(10)))(xs)
        log_prob = gj.NoisyClassifier(guide, classifier.apply, batched=False).log_prob
        return out, jax.vmap(jax.value_and_grad(log_prob), (0, None, 0))(xs, level, labels)

    @jax.jit
    def forward(params, xs, labels):
        return jax.vmap(lambda x, y: unet.apply(params, x, level.t, y))(xs, labels)

    guided = gj.Reverse(gj.Classifier(gj.Unconditional(model, 10), noisy, 2.0), gj.DDIM())
    mean = gj.MeanShift(gj.Unconditional(model, 10), gj.DDPM(), noisy, 2.0)
    times = alternate(
        {
            "network forward": lambda: forward(params, xs, labels),
            "network forward + classifier value and gradient": lambda: bare(params, guide, xs, labels),
            "guided, score form, whole run": lambda: gj.generate(keys, guided, levels, shape, labels),
            "guided, mean form, whole run": lambda: gj.generate(keys, mean, levels, shape, labels),
            "unguided, whole run": lambda: gj.generate(keys, gj.Reverse(model, gj.DDIM()), levels, shape, labels),
        },
        args.repeats,
    )
    step = {name: 1e3 * seconds / (args.steps if "whole" in name else 1) for name, seconds in times.items()}
    floor = step["network forward + classifier value and gradient"]
    print(f"JAX {jax.__version__}, {jax.devices()[0]}; {sizes[0]:,} + {sizes[1]:,} parameters, batch {args.batch}")
    for name, ms in step.items():
        print(f"{ms:8.1f} ms  {ms / floor:5.2f}  {name.replace(', whole run', ', per step')}")
    ratio = step["guided, score form, whole run"] / floor
    print(f"guided step over bare networks: {ratio:.2f}")
    write(args.out, milliseconds_per_step=step, ratio=ratio, parameters=sizes, settings=vars(args))


if __name__ == "__main__":
    main()
