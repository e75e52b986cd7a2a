"""What guidance costs in time and memory, beside what no sampler can do without."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import guidance_jax as gj
from benchmarks.fashion import DATA, MODELS, denoiser
from benchmarks.peers import NULL, SCALE, TASKS, jax_networks, levels
from benchmarks.suite import Measure, Row, alternate, benchmark
from guidance_jax.datasets.idx import FASHION, idx
from guidance_jax.discrete import TAG, PredictorGuidance, TauLeap
from guidance_jax.guidance import LGD, AdaptiveGuidance, Reuse
from guidance_jax.sample import _generate, prepare
from guidance_jax.zoo.adm.network import ADMClassifier, ADMUNet
from guidance_jax.zoo.convolution import conv2d
from guidance_jax.zoo.sequence_models import language_model, token_classifier, token_model
from guidance_jax.zoo.transformer import GPT2, Transformer


def networks(shape: tuple[int, ...], width: int, classifier_width: int, **fields: Any) -> tuple:
    """An ADM U-Net with labels and its noisy classifier, random: (network, denoiser, classifier)."""
    common = dict(num_res_blocks=1, channel_mult=(1, 2, 2), time_scale=1000.0, **fields)
    unet = ADMUNet(width, shape[-1], num_classes=11, **common)
    classifier = ADMClassifier(classifier_width, 10, **common)
    x, t, y = jnp.zeros(shape), jnp.zeros(()), jnp.zeros((), int)
    model = gj.Network(unet.init(jax.random.key(0), x, t, y), unet.apply, gj.parameterizations.v, batched=False)
    noisy = gj.NoisyClassifier(classifier.init(jax.random.key(1), x, t), classifier.apply, batched=False)
    return unet, model, noisy


def count(params: Any) -> int:
    return sum(a.size for a in jax.tree.leaves(params))


@benchmark(quick={"batch": 1, "size": 16, "steps": 2, "repeats": 2})
def step_cost(batch: int = 8, size: int = 32, width: int = 64, steps: int = 10, repeats: int = 9) -> Iterator[Row]:
    """What does a guided step cost over the bare networks?

    The whole sampler, divided by its steps, over one jitted call of what a step cannot do without: the diffusion
    network's forward pass plus the classifier's value and gradient. Networks and guide of the size of an ADM for 32 x
    32; the classifier has half the channels.
    """
    shape = (size, size, 3)
    unet, model, noisy = networks(shape, width, width // 2, attention_resolutions=(2, 4), num_head_channels=32)
    keys, labels, lv = gj.keys(0, batch), jnp.arange(batch) % 10, gj.Cosine().levels(steps)
    xs = jax.random.normal(jax.random.key(2), (batch, *shape))
    level = lv.at(steps // 2)

    @jax.jit
    def bare(params, noisy, xs, labels):
        out = jax.vmap(lambda x: unet.apply(params, x, level.t, jnp.array(10)))(xs)
        return out, jax.vmap(jax.value_and_grad(noisy.log_prob), (0, None, 0))(xs, level, labels)

    @jax.jit
    def forward(params, xs, labels):
        return jax.vmap(lambda x, y: unet.apply(params, x, level.t, y))(xs, labels)

    guided = gj.Reverse(gj.Classifier(gj.Unconditional(model, 10), noisy, 2.0), gj.DDIM())
    mean = gj.MeanShift(gj.Unconditional(model, 10), gj.DDPM(), noisy, 2.0)
    whole = {"guided, score form": guided, "guided, mean form": mean, "unguided": gj.Reverse(model, gj.DDIM())}
    floor = "network forward + classifier value and gradient"
    seconds = alternate(
        {
            "network forward": lambda: forward(model.params, xs, labels),
            floor: lambda: bare(model.params, noisy, xs, labels),
            **{name: lambda k=kernel: gj.generate(keys, k, lv, shape, labels) for name, kernel in whole.items()},
        },
        repeats,
    )
    sizes = {"parameters": count(model.params), "parameters of the classifier": count(noisy.params)}
    for name, value in seconds.items():
        step = value / (steps if name in whole else 1)
        measures = {"step": Measure(1e3 * step, unit="ms"), "over the networks": step / seconds[floor]}
        yield Row({"run": name}, measures, sizes if name == floor else {})


@benchmark(quick={"batch": 2, "steps": 8, "repeats": 2})
def guidance_cost(batch: int = 16, size: int = 16, steps: int = 40, repeats: int = 9) -> Iterator[Row]:
    """Is guidance that is switched off free, and what do reused gradients cost?

    Whole runs, timed in turn: unguided; guided at every step; guided in a window that is open for a quarter of the
    steps; with a gradient every fourth step. For CFG and for classifier guidance.
    """
    shape = (size, size, 1)
    _, model, noisy = networks(shape, 24, 24, attention_resolutions=(4,), groups=8)
    keys, labels, lv = gj.keys(0, batch), jnp.arange(batch) % 10, gj.Cosine().levels(steps)
    quarter, first = steps // 4, steps // 3
    ratios = np.sqrt(np.asarray(lv.ratio[:-1]) * np.append(np.asarray(lv.ratio[1:-1]), 1e-4))  # between levels
    window = gj.Window(2.0, float(ratios[first + quarter - 1]), float(ratios[first - 1]))
    inside = int(np.sum((np.asarray(lv.ratio[:-1]) > window.lo) & (np.asarray(lv.ratio[:-1]) <= window.hi)))
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
        return lambda: gj.generate(keys, gj.Reverse(guide, gj.DDIM()), lv, shape, labels)

    seconds = alternate({name: run(guide) for name, guide in guides.items()}, repeats)
    base = seconds["unguided"]
    for name, value in seconds.items():
        yield Row({"run": name}, {"time": Measure(value, unit="s")})
    for name in ("CFG", "classifier"):
        least = base + (seconds[f"{name}, every step"] - base) / 4
        ratio = seconds[f"{name}, a quarter of the steps"] / least
        yield Row({"compared": f"{name}, quarter over unguided + a quarter of the guidance"}, {"ratio": ratio})
    full, reused = (seconds[f"classifier, {how}"] - base for how in ("every step", "gradient every fourth step"))
    yield Row({"compared": "reuse over the guidance time"}, {"ratio": reused / full})


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


@benchmark(quick={"samples": 2, "steps": 2, "side": 16, "repeats": 2})
def own_network(samples: int = 16, steps: int = 10, side: int = 32, repeats: int = 15) -> Iterator[Row]:
    """What does a guided step of a batched Linen U-Net cost over the same step written by hand for batches?"""
    unet, shape, null, scale = UNet(), (side, side, 3), 10, 3.0
    variables = unet.init(jax.random.key(0), jnp.zeros((1, *shape)), jnp.zeros(1), jnp.zeros(1, int))
    model = gj.from_linen(unet, variables, gj.parameterizations.eps)
    kernel = gj.Reverse(gj.CFG(model, null, scale), gj.DDIM())
    lv, labels = gj.Cosine().levels(steps, 0.99), jnp.arange(samples) % 10
    noise = jax.random.normal(jax.random.key(1), (samples, *shape))

    @jax.jit
    def by_hand(variables, noise, labels):
        """CFG with DDIM as one would write it: both conditions in one batch of 2 N."""
        y = jnp.concatenate([labels, jnp.full_like(labels, null)])

        def body(x, inputs):
            t, s = inputs
            eps = unet.apply(variables, jnp.concatenate([x, x]), jnp.full(2 * samples, t.t), y)
            c, u = jnp.split(eps, 2)
            eps = u + scale * (c - u)
            x0 = (x - t.sigma * eps) / t.alpha
            return s.alpha * x0 + s.sigma * eps, None

        return jax.lax.scan(body, noise, (lv.at(slice(None, -1)), lv.at(slice(1, None))))[0]

    runs = {
        "library": lambda: gj.generate(gj.keys(0, samples), kernel, lv, shape, labels, noise),
        "by hand": lambda: by_hand(variables, noise, labels),
    }
    a, b = (np.asarray(call()) for call in runs.values())
    seconds = alternate(runs, repeats)
    for name, value in seconds.items():
        yield Row({"run": name}, {"step": Measure(1e3 * value / steps, unit="ms")}, {"parameters": count(variables)})
    difference = np.abs(a - b).max() / np.abs(b).max()
    ratio = seconds["library"] / seconds["by hand"]
    yield Row({"compared": "library over by hand"}, {"ratio": ratio, "relative difference": difference})


@benchmark(quick={"repeats": 2})
def conv_in_scan(repeats: int = 15) -> Iterator[Row]:
    """What does the hand-written transpose of a convolution save inside `lax.scan`?"""

    def jax_conv(x, w):
        return jax.lax.conv_general_dilated(x[None], w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))[0]

    for batch, side, channels in ((64, 8, 32), (8, 32, 64)):
        x = jax.random.normal(jax.random.key(0), (batch, side, side, channels))
        w = jax.random.normal(jax.random.key(1), (3, 3, channels, channels))

        def run(conv, x=x, w=w):
            def body(x, _):
                return 0.01 * jax.vmap(lambda x: jax.vjp(lambda x: conv(x, w), x)[1](x)[0])(x), None

            f = jax.jit(lambda x: jax.lax.scan(body, x, None, length=10)[0])
            return lambda: f(x)

        for name, value in alternate({"JAX's own": run(jax_conv), "by hand": run(conv2d)}, repeats).items():
            shape = f"{batch} x {side} x {side} x {channels}"
            yield Row({"shape": shape, "transpose": name}, {"input gradient": Measure(100 * value, unit="ms")})


def flops(compiled: Any) -> float:
    """Operations of a compiled program, by XLA's count."""
    found = compiled.cost_analysis()
    return (found[0] if isinstance(found, list) else found)["flops"]


@benchmark(quick={"repeats": 1})
def roofline(repeats: int = 9) -> Iterator[Row]:
    """How near is a guided step to what the machine can do, and what does compiling cost?

    Achieved GFLOP/s of a classifier-guided step, by XLA's count of its operations, over two measured peaks of this
    machine: a large matrix product, and the convolution that the network has most of. Then the time to compile the
    whole sampler over that of what no sampler can do without: the network's forward pass and the classifier's gradient.
    """
    task = TASKS["adm"]
    apply, params, classify, guide = jax_networks(task)
    noisy = gj.NoisyClassifier(guide, classify, batched=False)
    free = gj.Unconditional(gj.Network(params, apply, gj.parameterizations.eps, batched=False), NULL)
    kernel = gj.Reverse(gj.Classifier(free, noisy, SCALE), gj.DDIM())
    n, shape, lv = task.batch, task.shape, gj.Level(*(jnp.asarray(a, jnp.float32) for a in levels(task.steps)))
    keys, labels, level = gj.keys(0, n), jnp.arange(n) % 10, lv.at(4)
    xs = jax.random.normal(jax.random.key(2), (n, *shape))

    def bare(params, noisy, xs, labels):
        out = jax.vmap(lambda x: apply(params, x, level.t, jnp.array(NULL)))(xs)
        return out, jax.vmap(jax.grad(noisy.log_prob), (0, None, 0))(xs, level, labels)

    def compiled(lower):
        begin = time.perf_counter()
        return lower().compile(), time.perf_counter() - begin

    program = prepare(keys, kernel, lv, shape, labels)
    compiling: dict[str, list[float]] = {"sampler": [], "networks": []}
    for _ in range(3):
        jax.clear_caches()
        one, seconds = compiled(lambda: jax.jit(bare).lower(params, noisy, xs, labels))
        compiling["networks"].append(seconds)
        jax.clear_caches()
        compiling["sampler"].append(compiled(lambda: _generate.lower(*program, shape, labels, None))[1])
    a = jnp.ones((2048, 2048))
    w, image = jnp.ones((3, 3, task.width, task.width)), jnp.ones((n, 32, 32, task.width))
    matmul, conv = jax.jit(lambda a: a @ a), jax.jit(jax.vmap(conv2d, (0, None)))
    times = alternate(
        {
            "guided step": lambda: gj.generate(keys, kernel, lv, shape, labels),
            "networks alone": lambda: one(params, noisy, xs, labels),
            "matmul": lambda: matmul(a),
            "convolution": lambda: conv(image, w),
        },
        repeats,
    )
    times["guided step"] /= task.steps
    work = {
        "guided step": flops(one),
        "networks alone": flops(one),
        "matmul": 2 * 2048**3,
        "convolution": 2 * n * 32**2 * 9 * task.width**2,
    }
    for name, value in times.items():
        measures = {"rate": Measure(work[name] / value / 1e9, unit="GFLOP/s"), "time": Measure(1e3 * value, unit="ms")}
        yield Row({"work": name}, measures)
    median = {name: sorted(found)[1] for name, found in compiling.items()}
    for name, value in median.items():
        yield Row({"compiling": name}, {"time": Measure(value, unit="s")})
    yield Row(
        {"compared": "compiling the sampler over the networks"}, {"ratio": median["sampler"] / median["networks"]}
    )


@benchmark(quick={"batch": 1, "repeats": 2, "sequences": 8})
def token_speed(batch: int = 4, sequences: int = 256, repeats: int = 7) -> Iterator[Row]:
    """Are Taylor rates worth it, and does decoding stay linear?

    One guided step on 75 tokens of 4 letters, exact against Taylor rates; text of 128 tokens in two halves.
    """
    length, process = 75, gj.Absorbing(4)
    zeros = jnp.zeros(length, int)
    network = Transformer(5, 4, length, num_classes=11)
    model = token_model(network, network.init(jax.random.key(0), zeros, jnp.zeros(()), jnp.zeros((), int)), process)
    judge = Transformer(5, 4, length, depth=2, values=10)
    classifier = token_classifier(judge, judge.init(jax.random.key(1), zeros, jnp.zeros(())))
    keys, labels, lv = gj.keys(0, batch), jnp.zeros(batch, int), gj.RectifiedFlow().levels(2)
    free = gj.Unconditional(model, 10)

    def steps(guided):
        kernel = gj.Reverse(guided, TauLeap())
        return lambda: gj.generate(keys, kernel, lv, (length,), labels)

    exact, taylor = PredictorGuidance(free, classifier, 1.0), TAG(free, classifier, 1.0)
    times = alternate({"unguided": steps(free), "exact rates": steps(exact), "Taylor rates": steps(taylor)}, repeats)
    for name, value in times.items():
        yield Row({"run": name}, {"two steps": Measure(value, unit="s")})
    yield Row({"compared": "exact over Taylor rates"}, {"ratio": times["exact rates"] / times["Taylor rates"]})
    yield from decoding(sequences, repeats)


def decoding(n: int, repeats: int, context: int = 128) -> Iterator[Row]:
    """The two halves of a text of a GPT-2, and how often the sampler is compiled for it."""
    gpt = GPT2(500, context, width=128, depth=4)
    text = language_model(gpt, gpt.init(jax.random.key(2), jnp.zeros(context, int)))
    kernel, lv = gj.Reverse(text, gj.Ancestral(top_k=40)), gj.positions(context)
    before = _generate._cache_size()
    gj.generate(gj.keys(0, n), kernel, lv, (context,))
    yield Row({"run": "decoding"}, {"compiles": _generate._cache_size() - before})
    half = context // 2

    @jax.jit
    def part(carry, lv, keys):
        def one(carry, key):
            def body(carry, inputs):
                t, s, k = inputs
                return kernel(carry, t, s, None, k), None

            inputs = lv.at(slice(None, -1)), lv.at(slice(1, None)), jax.random.split(key, len(lv.t) - 1)
            return jax.lax.scan(body, carry, inputs)[0]

        return jax.vmap(one)(carry, keys)

    begin = jax.vmap(kernel.init)(jnp.zeros((n, context), jnp.int32))
    early, late = lv.at(slice(0, half)), lv.at(slice(context - half, context))
    middle = part(begin, early, gj.keys(0, n))
    halves = alternate(
        {
            "first half": lambda: part(begin, early, gj.keys(0, n)),
            "second half": lambda: part(middle, late, gj.keys(0, n)),
        },
        repeats,
    )
    for name, value in halves.items():
        yield Row({"run": f"decoding, {name}"}, {"time": Measure(value, unit="s")})
    yield Row({"compared": "second half over first"}, {"ratio": halves["second half"] / halves["first half"]})


@benchmark(quick={"many": 20})
def memory(many: int = 1000) -> Iterator[Row]:
    """Does memory grow with the population, and what does rematerialisation save?

    Peak temporary bytes of the compiled programs (XLA's own plan), not of the process: few and many particles of a 28 x
    28 model at once and in microbatches, Monte Carlo draws likewise, and a gradient through the network with `remat`.
    """
    shape, lv, key = (28, 28, 1), gj.Cosine().levels(10), jax.random.key(0)

    def unet(remat=False):
        common = dict(num_res_blocks=1, attention_resolutions=(4,), channel_mult=(1, 2, 2), groups=8, time_scale=1000.0)
        return ADMUNet(32, 1, num_classes=11, remat=remat, **common)

    params = unet().init(jax.random.key(0), jnp.zeros(shape), jnp.zeros(()), jnp.zeros((), int))

    def model(remat=False):
        return gj.Network(params, unet(remat).apply, gj.parameterizations.v, batched=False)

    def brightness(x0, level, cond):
        return jnp.sum(x0)

    def judged(x0, level, cond):  # a likelihood that costs memory: the network itself
        return jnp.sum(unet().apply(params, x0, level.t, cond))

    def row(name, f, n=None):
        x = jax.ShapeDtypeStruct(shape if n is None else (n, *shape), jnp.float32)
        size = jax.jit(f).lower(x).compile().memory_analysis().temp_size_in_bytes / 1e6
        return Row({"program": name}, {"temporary memory": Measure(size, unit="MB")})

    def sampled(kernel):
        return lambda x: gj.sample(key, kernel, lv, x, jnp.int32(3)).x

    def how(microbatch):
        return "at once" if microbatch is None else f"{microbatch} at a time"

    moves = {kind.__name__.lower(): kind(model(), gj.DDIM(1.0), brightness) for kind in (gj.Steered, gj.Twisted)}
    for name, move in moves.items():
        for n, microbatch in ((10, None), (many, 10), (many, None)):
            kernel = gj.SMC(move, microbatch=microbatch)
            yield row(f"{name}, {n} particles, {how(microbatch)}", sampled(kernel), n)
    for draws, microbatch in ((8, None), (128, 8), (128, None)):
        guided = LGD(model(), judged, draws=draws, microbatch=microbatch)
        yield row(f"LGD, {draws} draws, {how(microbatch)}", sampled(gj.Reverse(guided, gj.DDIM())))
    for remat in (False, True):
        kernel = gj.Reverse(gj.Reconstruction(model(remat), brightness), gj.DDIM())
        name = f"gradient through the network, 16 samples, remat {'on' if remat else 'off'}"
        yield row(name, jax.vmap(sampled(kernel)), 16)


@benchmark(quick={"samples": 4, "steps": 4})
def adaptive_guidance(
    samples: int = 100, steps: int = 30, scale: float = 3.0, fashion: bool = False, folder: Path = MODELS
) -> Iterator[Row]:
    """What does AdaptiveGuidance spare on the digits that ship, and how far is it from CFG?

    `--fashion`: on Fashion-MNIST in their place, with the denoiser of `learned`, which is trained into the folder. For
    each threshold: the share of unconditional calls that are left out, and the distance to CFG's samples, in units
    of the distance between CFG and the conditional model. The paper (arXiv 2312.12487) reports 25 % of all calls
    spared, that is half of the unconditional ones, on latents of text-to-image models.
    """
    if fashion:
        model = denoiser(idx(DATA, names=FASHION), folder, width=16)
    else:
        model, _ = gj.examples.digits()
    lv, labels = gj.Cosine().levels(steps), jnp.arange(samples) % 10
    keys, shape = gj.keys(0, samples), model.domain.shape

    @jax.jit
    def drawn(guided):
        def one(key, label):
            first, rest = jax.random.split(key)
            kernel, x = gj.Reverse(guided, gj.DDIM()), gj.core.GaussianDiffusion().start(first, lv, shape)
            carry, on = gj.sample(rest, kernel, lv, x, label, record=lambda carry: carry.model_state[1].on)
            return carry.x, jnp.concatenate([jnp.ones(1, bool), on[:-1]])

        return jax.vmap(one)(keys, labels)

    def at(threshold):
        return map(np.asarray, drawn(AdaptiveGuidance(model, 10, scale, threshold=threshold)))

    cfg, _ = at(2.0)
    conditional = np.asarray(gj.generate(keys, gj.Reverse(model, gj.DDIM()), lv, shape, labels))
    apart = np.sqrt(np.mean((cfg - conditional) ** 2))
    for threshold in (0.98, 0.985, 0.9875, 0.99, 0.995, 0.998, 0.9995):
        x, on = at(threshold)
        distance = np.sqrt(np.mean((x - cfg) ** 2)) / apart
        yield Row({"threshold": threshold}, {"unconditional calls spared": 1 - on.mean(), "distance to CFG": distance})
    found = gj.diagnostics.guidance_by_level(keys, model, gj.Unconditional(model, 10), gj.DDIM(), lv, shape, labels)
    for level in found:
        yield Row({"sigma / alpha": level.ratio}, {"cosine": level.agreement})
