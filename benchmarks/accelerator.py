"""Guided steps at published sizes.

On an accelerator the networks have their published sizes: ADM 64 x 64 with its classifier, DiT-XL/2, SDXL's U-Net and
SD3.5-medium with CFG, a token model with CFG; in float32 and bfloat16, from one sample to the largest batch that fits.
On a CPU the same in a tiny form, in float32 (DiT-S/2 has 33 M parameters). Each row: seconds a step, samples a second
(of as many steps as the setting says), the share of the largest matrix product measured here, the memory as compiled.
Beside it, where PyTorch and diffusers are installed, diffusers' own networks, eager and compiled, on the same device,
alternately. Then the laws of sampling are run on the device. Weights are random.
"""

import importlib.util
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

import guidance_jax as gj
from benchmarks.suite import Measure, Row, alternate, benchmark
from guidance_jax.sample import _generate
from guidance_jax.zoo.adm.network import ADMClassifier, ADMUNet
from guidance_jax.zoo.dit.network import DiT
from guidance_jax.zoo.mmdit.network import MMDiT
from guidance_jax.zoo.sequence_models import token_model
from guidance_jax.zoo.stable_diffusion.unet import StableDiffusionUNet
from guidance_jax.zoo.transformer import Transformer

CPU = jax.default_backend() == "cpu"
STEPS = 4 if CPU else 20
SAMPLE_STEPS = 50  # of the sampler that samples a second are quoted for


def parameters(network, dtype, *inputs):
    """Random parameters, made on the device."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), *inputs)
    leaves, tree = jax.tree.flatten(shapes)
    make = jax.jit(lambda key, shape: 0.02 * jax.random.normal(key, shape, dtype), static_argnums=1)
    return jax.tree.unflatten(tree, [make(jax.random.key(i), a.shape) for i, a in enumerate(leaves)])


def adm(dtype):
    """Classifier guidance: the gradient of the noisy classifier at every step."""
    width, mult, res = (32, (1, 2), 1) if CPU else (192, (1, 2, 3, 4), 3)
    shape, channels = ((32, 32, 3), 16) if CPU else ((64, 64, 3), 64)
    attention = (2,) if CPU else (2, 4, 8)
    more = dict(num_head_channels=channels, dtype=dtype)
    network = ADMUNet(width, 6, res, attention, mult, use_new_attention_order=True, num_classes=1000, **more)
    judge = ADMClassifier(width if CPU else 128, 1000, 1 if CPU else 4, attention, mult, **more)
    x, t, y = jnp.zeros(shape), jnp.zeros(()), jnp.zeros((), int)
    domain = gj.Domain(shape, gj.CosineBetas(1000), 1000)
    learned = gj.parameterizations.LearnedRange()
    model = gj.Network(parameters(network, dtype, x, t, y), network.apply, learned, domain, batched=False)
    classifier = gj.NoisyClassifier(parameters(judge, dtype, x, t), judge.apply, domain, batched=False)
    return gj.Reverse(gj.Classifier(model, classifier, 1.0), gj.DDIM()), domain, lambda n: jnp.arange(n) % 1000


def dit(dtype):
    """Classifier-free guidance, both conditions in one batch."""
    size = dict(width=384, heads=6, mlp_width=1536, depth=12) if CPU else {}
    network = DiT(**size, dtype=dtype)
    shape = (32, 32, 4)
    domain = gj.Domain(shape, gj.LinearBetas(1000), 1000, 1000, guided_channels=3)
    params = parameters(network, dtype, jnp.zeros(shape), jnp.zeros(()), jnp.zeros((), int))
    model = gj.Network(params, network.apply, gj.parameterizations.LearnedRange(), domain, batched=False)
    return gj.Reverse(gj.CFG(model, 1000, 4.0), gj.DDIM()), domain, lambda n: jnp.arange(n) % 1000


def sdxl(dtype):
    """Classifier-free guidance with a context of 77 states."""
    width, side, context, vector = (32, 16, 64, 64) if CPU else (320, 128, 2048, 2816)
    network = StableDiffusionUNet(
        *(width, 4, 2, (2, 4), (1, 2, 4)), num_head_channels=16 if CPU else 64, transformer_depth=(0, 2, 10),
        added=True, groups=8 if CPU else 32, dtype=dtype,
    )  # fmt: skip
    shape, one = (side, side, 4), {"context": jnp.zeros((77, context)), "vector": jnp.zeros(vector)}
    known = (("context", (77, context)), ("vector", (vector,)))
    domain = gj.Domain(shape, gj.schedules.ScaledLinearBetas(1000), context=known)
    params = parameters(network, dtype, jnp.zeros(shape), jnp.zeros(()), one)
    model = gj.Network(params, network.apply, gj.parameterizations.eps, domain, batched=False)
    rows = lambda n: jax.tree.map(lambda a: jnp.ones((n, *a.shape)), one)  # noqa: E731
    return gj.Reverse(gj.CFG(model, one, 5.0), gj.DDIM()), domain, rows


SD3 = (
    {"width": 384, "heads": 6, "depth": 6, "dual": 3, "side": 32, "context": 512, "vector": 256}
    if CPU
    else {"width": 1536, "heads": 24, "depth": 24, "dual": 13, "side": 128, "context": 4096, "vector": 2048}
)


def sd3(dtype):
    """Classifier-free guidance with a context of 333 states, joint attention, on a flow."""
    size = {name: SD3[name] for name in ("width", "heads", "depth", "dual")}
    network = MMDiT(**size, positions=SD3["side"], qk_norm=True, dtype=dtype)
    shape = (SD3["side"], SD3["side"], 16)
    one = {"context": jnp.zeros((333, SD3["context"])), "vector": jnp.zeros(SD3["vector"])}
    domain = gj.Domain(shape, gj.RectifiedFlow(), context=tuple((k, v.shape) for k, v in one.items()))
    params = parameters(network, dtype, jnp.zeros(shape), jnp.zeros(()), one)
    model = gj.Network(params, network.apply, gj.parameterizations.velocity, domain, batched=False)
    rows = lambda n: jax.tree.map(lambda a: jnp.ones((n, *a.shape)), one)  # noqa: E731
    return gj.Reverse(gj.CFG(model, one, 5.0), gj.DDIM()), domain, rows


def tokens(dtype):
    """Classifier-free guidance of masked diffusion."""
    size = dict(width=128, depth=2, heads=4) if CPU else dict(width=768, depth=12, heads=12)
    length, vocabulary = (128, 500) if CPU else (1024, 32000)
    network = Transformer(vocabulary + 1, vocabulary, length, num_classes=11, **size)
    domain = gj.Domain((length,), gj.RectifiedFlow(), 10, 10)
    params = parameters(network, dtype, jnp.zeros(length, int), jnp.zeros(()), jnp.zeros((), int))
    model = token_model(network, params, gj.Absorbing(vocabulary), domain)
    return gj.Reverse(gj.CFG(model, 10, 2.0), gj.Ancestral()), domain, lambda n: jnp.arange(n) % 10


CASES = {
    "ADM 64 with classifier": adm,
    "DiT with CFG": dit,
    "SDXL U-Net with CFG": sdxl,
    "SD3.5 with CFG": sd3,
    "tokens with CFG": tokens,
}


def flops(program):
    """Of the matrix products and convolutions in a program, loops counted as often as they run."""
    total = 0
    for equation in program.eqns:
        name, out = equation.primitive.name, math.prod(getattr(equation.outvars[0].aval, "shape", ()))
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += 2 * out * math.prod(equation.invars[0].aval.shape[i] for i in contracted)
        elif name in ("conv_general_dilated", "conv2d_in_scan"):
            total += 2 * out * math.prod(equation.invars[1].aval.shape[:-1])
        parts = [one for v in equation.params.values() for one in (v if isinstance(v, tuple | list) else (v,))]
        within = [flops(one.jaxpr) for one in parts if isinstance(one, jax.extend.core.ClosedJaxpr)]
        within += [flops(one) for one in parts if isinstance(one, jax.extend.core.Jaxpr)]
        total += (max(within) if name == "cond" else sum(within)) * equation.params.get("length", 1) if within else 0
    return total


def median(call, seconds):
    """Median time of `call`, run for about so many seconds, at least twice."""
    jax.block_until_ready(call())
    times = []
    while len(times) < 2 or (sum(times) < seconds and len(times) < 15):
        begin = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - begin)
    return float(np.median(times))


def peak(dtype):
    """Operations a second of a large matrix product."""
    n = 2048 if CPU else 8192
    a = jnp.ones((n, n), dtype)
    product = jax.jit(jnp.matmul)
    return 2 * n**3 / median(lambda: product(a, a), 1.0)


def row(case, kernel, domain, cond, best, seconds):
    """A batch: what a step takes, and what was compiled for it."""
    levels, n = domain.schedule.levels(STEPS), case["batch"]
    given = gj.sample_mesh(1), gj.keys(0, n), kernel, levels, domain.shape, cond
    begin = time.perf_counter()
    compiled = gj.memory(*given)
    cost = {"compiling, s": round(time.perf_counter() - begin, 2), "memory, MiB": round(sum(compiled) / 2**20)}
    step = median(lambda: gj.generate(given[1], kernel, levels, domain.shape, cond), seconds) / STEPS
    program = jax.make_jaxpr(lambda k, c: _generate(given[1], k, levels, domain.shape, c, None))(kernel, cond).jaxpr
    share = flops(program) / STEPS / step / best
    rate = n / step / SAMPLE_STEPS
    measures = {"step": Measure(step, unit="s"), "samples a second": rate, "share of the matrix peak": share}
    return Row(case, measures, cost)


def measure(case, dtype, deadline, best):
    """Rows of one network, until the next batch does not fit or the time is over."""
    kernel, domain, rows = CASES[case["network"]](dtype)
    n = 1
    while time.perf_counter() < deadline:
        begin, own = time.perf_counter(), case | {"batch": n}
        try:
            yield row(own, kernel, domain, rows(n), best, 1.0 if CPU else 2.0)
        except Exception as error:  # XLA's own exceptions for memory differ from version to version
            yield Row(own, {}, {"stopped": f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"})
            return
        if (CPU and n >= 4) or time.perf_counter() + 1.5 * (time.perf_counter() - begin) > deadline:
            return
        n *= 4


def beside_pytorch(name, dtype, n):
    """A guided step of n samples beside diffusers' own network on the same device, alternately: seconds of each."""
    if (
        name not in ("DiT with CFG", "SDXL U-Net with CFG", "SD3.5 with CFG")
        or importlib.util.find_spec("diffusers") is None
    ):
        return {}
    import diffusers
    import torch

    cuda = torch.cuda.is_available()
    if not CPU and not cuda:
        return {}
    place = {"device": "cuda" if cuda and not CPU else "cpu", "dtype": getattr(torch, jnp.dtype(dtype).name)}
    if name.startswith("DiT"):
        size = dict(num_attention_heads=6, attention_head_dim=64, num_layers=12) if CPU else {}
        network = diffusers.DiTTransformer2DModel(sample_size=32, out_channels=8, **size)
        x, more = torch.zeros(2 * n, 4, 32, 32, **place), {}
        more["class_labels"] = torch.zeros(2 * n, dtype=torch.long, device=place["device"])
    elif name.startswith("SD3"):
        heads = {"num_attention_heads": SD3["heads"], "caption_projection_dim": SD3["width"]}
        network = diffusers.SD3Transformer2DModel(
            sample_size=SD3["side"], num_layers=SD3["depth"], attention_head_dim=64, joint_attention_dim=SD3["context"],
            pooled_projection_dim=SD3["vector"], pos_embed_max_size=SD3["side"], qk_norm="rms_norm",
            dual_attention_layers=tuple(range(SD3["dual"])), **heads,
        )  # fmt: skip
        x = torch.zeros(2 * n, 16, SD3["side"], SD3["side"], **place)
        more = {"encoder_hidden_states": torch.zeros(2 * n, 333, SD3["context"], **place)}
        more["pooled_projections"] = torch.zeros(2 * n, SD3["vector"], **place)
    else:
        width, side, context, vector = (32, 16, 64, 64) if CPU else (320, 128, 2048, 2816)
        network = diffusers.UNet2DConditionModel(
            sample_size=side, block_out_channels=(width, 2 * width, 4 * width),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), norm_num_groups=8 if CPU else 32,
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=[w * width // (16 if CPU else 64) for w in (1, 2, 4)],
            cross_attention_dim=context, use_linear_projection=True, addition_embed_type="text_time",
            addition_time_embed_dim=4 if CPU else 256, projection_class_embeddings_input_dim=vector,
        )  # fmt: skip
        pooled = vector - 6 * (4 if CPU else 256)
        x = torch.zeros(2 * n, 4, side, side, **place)
        added = {"text_embeds": torch.zeros(2 * n, pooled, **place), "time_ids": torch.zeros(2 * n, 6, **place)}
        more = {"encoder_hidden_states": torch.zeros(2 * n, 77, context, **place), "added_cond_kwargs": added}
    network = network.to(**place).eval()
    t = torch.full((2 * n,), 500, device=place["device"])

    def step(call):
        def run():
            with torch.no_grad():
                c, u = call(x, timestep=t, **more).sample[:, : x.shape[1]].chunk(2)
                found = u + 4.0 * (c - u)
            if place["device"] == "cuda":
                torch.cuda.synchronize()
            return found.shape

        return run

    kernel, domain, rows = CASES[name](dtype)
    levels, keys, cond = domain.schedule.levels(STEPS), gj.keys(0, n), rows(n)
    calls = {
        f"this library, {STEPS} steps": lambda: gj.generate(keys, kernel, levels, domain.shape, cond),
        "diffusers, eager": step(network),
        "diffusers, compiled": step(torch.compile(network)),
    }
    try:
        calls["diffusers, compiled"]()
    except Exception:  # without a compiler on this machine, for example
        del calls["diffusers, compiled"]
    found = alternate(calls, 5 if CPU else 9)
    found = {k.split(",")[0] if "steps" in k else k: v / STEPS if "steps" in k else v for k, v in found.items()}
    return found


def laws():
    """The laws of sampling on this device: how many passed."""
    environment = os.environ | ({} if CPU else {"JAX_PLATFORMS": jax.default_backend()})
    files = ["tests/laws/test_sampling.py", "tests/test_latent_models.py"]
    command = [sys.executable, "-m", "pytest", "-n", "0", *files, "-k", "not wrong and not refused"]
    if importlib.util.find_spec("pytest") is None or importlib.util.find_spec("beartype") is None:
        return "not run: needs the test extra"
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return (done.stdout.strip().splitlines() or ["no output"])[-1]


@benchmark(
    quick={"minutes": 1.0, "skip_laws": True},
    packages=("jax", "torch", "diffusers"),
    form="tiny, on a CPU" if CPU else "full",
    steps=STEPS,
    **{"steps of samples a second": SAMPLE_STEPS},
)
def accelerator(minutes: float = 10.0, only: tuple[str, ...] = tuple(CASES), skip_laws: bool = False) -> Iterator[Row]:
    """What do guided steps cost on whatever is here, at published sizes?"""
    begin = time.perf_counter()
    types = [jnp.float32] if CPU else [jnp.float32, jnp.bfloat16]
    best, whole = {}, {}
    for dtype in types:
        name = jnp.dtype(dtype).name
        best[name] = peak(dtype)
        yield Row({"matrix product": name}, {"operations a second": best[name]})
    jobs = [({"network": name, "dtype": jnp.dtype(t).name}, t) for name in only for t in types]

    def left(share):
        """Seconds until that share of the time is over."""
        return 60 * minutes * share - (time.perf_counter() - begin)

    for i, (case, dtype) in enumerate(jobs):
        until = time.perf_counter() + max(left(0.6), 0) / (len(jobs) - i)
        for found in measure(case, dtype, until, best[case["dtype"]]):
            if found.measures:
                whole.setdefault(i, []).append(found.case["batch"])
            yield found
    for i, (case, dtype) in enumerate(jobs):
        if i in whole and left(0.85) > 0:
            n = whole[i][min(1, len(whole[i]) - 1)]
            for name, seconds in beside_pytorch(case["network"], dtype, n).items():
                yield Row(case | {"batch": n, "by": name}, {"step": Measure(seconds, unit="s")})
    outcome = "skipped" if skip_laws or left(1) < 30 else laws()
    yield Row(
        {"laws": "of sampling"}, {}, {"outcome": outcome, "seconds in all": round(time.perf_counter() - begin, 1)}
    )
