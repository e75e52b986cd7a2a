"""What does the hand-written transpose of a convolution save inside `lax.scan`?  python -m benchmarks.conv_in_scan"""

import argparse

import jax

from benchmarks.timing import alternate, write
from guidance_jax.zoo.convolution import conv2d


def jax_conv(x, w):
    return jax.lax.conv_general_dilated(x[None], w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out")
    args = parser.parse_args()
    print(f"JAX {jax.__version__}, {jax.devices()[0]}; ms per input gradient inside a scan of 10")
    rows = {}
    for batch, side, channels in ((64, 8, 32), (8, 32, 64)):
        x = jax.random.normal(jax.random.key(0), (batch, side, side, channels))
        w = jax.random.normal(jax.random.key(1), (3, 3, channels, channels))

        def run(conv, x=x, w=w):
            def body(x, _):
                return 0.01 * jax.vmap(lambda x: jax.vjp(lambda x: conv(x, w), x)[1](x)[0])(x), None

            f = jax.jit(lambda x: jax.lax.scan(body, x, None, length=10)[0])
            return lambda: f(x)

        times = alternate({"JAX's own": run(jax_conv), "by hand": run(conv2d)})
        rows[f"{batch}x{side}x{side}x{channels}"] = {name: 100 * t for name, t in times.items()}
        own, hand = (100 * times[name] for name in ("JAX's own", "by hand"))
        print(f"{batch} x {side} x {side} x {channels}: {own:.2f} -> {hand:.2f}, {own / hand:.1f} times")
    write(args.out, milliseconds=rows)


if __name__ == "__main__":
    main()
