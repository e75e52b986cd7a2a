"""A guided step in other libraries, each in a process of its own.

Every library runs in a process of its own, with the Python given for it (`--pythons torch=/venvs/torch/bin/python
hackable=...`; ours is the one that runs this script), because their requirements differ. All processes are warmed up
first, then run one after the other, again and again; the medians are of alternating runs. Same architectures, same
steps, random weights, float32.

    adm          classifier guidance, DDIM: an ADM U-Net of 8 M and a classifier of 0.8 M, 32 x 32, batch 8
    small WIDTH  the same with 7 convolutions of so many channels, 64 images of 8 x 8, 100 steps
    cfg          classifier-free guidance, DDIM, the U-Net of `adm`; in turn: one condition after the other

"Networks alone" is what no sampler can do without: the same networks, jitted, called as often. hackable-diffusion and
the PyTorch libraries have no classifier guidance; PyTorch's is the official sampler's loop with autograd.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from benchmarks.suite import Measure, Row, benchmark

SCALE, CLASSES, NULL = 2.0, 10, 10


class Task(NamedTuple):
    steps: int
    batch: int
    shape: tuple
    width: int
    peers: tuple  # after ours
    cfg: bool = False
    in_turn: bool = False


LARGE, JAX_AND_TORCH = (32, 32, 3), ("hackable", "torch", "diffusers", "azula")
TASKS = {
    "adm": Task(8, 8, LARGE, 64, ("torch",)),
    **{f"small {width}": Task(100, 64, (8, 8, 1), width, ("torch",)) for width in (32, 64, 128)},
    "cfg": Task(8, 8, LARGE, 64, JAX_AND_TORCH, cfg=True),
    "cfg in turn": Task(8, 8, LARGE, 64, ("hackable",), cfg=True, in_turn=True),
}


def levels(steps):
    """alpha and sigma of the cosine schedule, from noise to data."""
    t = np.linspace(0.99, 0.0, steps + 1)
    return t, np.cos(np.pi * t / 2), np.sin(np.pi * t / 2)


# -- workers: each returns (a function that runs once and waits, what to say about it) --


def jax_networks(task):
    import jax
    import jax.flatten_util
    import jax.numpy as jnp

    from guidance_jax.zoo.adm.network import ADMClassifier, ADMUNet
    from guidance_jax.zoo.convolution import conv2d

    shape, key = task.shape, jax.random.key(0)
    x, t, y = jnp.zeros(shape), jnp.zeros(()), jnp.zeros((), int)
    if task.shape != LARGE:

        def kernels(key, sizes):
            return [
                jax.random.normal(k, (3, 3, a, b)) / (9 * a) ** 0.5
                for k, a, b in zip(jax.random.split(key, len(sizes)), sizes, [*sizes[1:], 1], strict=True)
            ]

        def unet(params, x, t, y):
            for w in params[:-1]:
                x = jax.nn.silu(conv2d(x, w) + t)
            return conv2d(x, params[-1])

        def classify(params, x, t):
            for w in params[0]:
                x = jax.nn.silu(conv2d(x, w) + t)
            return jnp.mean(x, (0, 1)) @ params[1]

        guide = kernels(key, [1, task.width, task.width])
        guide[-1] = jax.random.normal(key, (3, 3, task.width, task.width)) / (9 * task.width) ** 0.5
        return unet, kernels(key, [1] + [task.width] * 6), classify, (guide, jnp.ones((task.width, CLASSES)))
    common = dict(num_res_blocks=2, attention_resolutions=(2, 4), channel_mult=(1, 2, 2), num_head_channels=32)
    unet = ADMUNet(task.width, 3, **common, num_classes=CLASSES + 1, time_scale=1000.0)
    classifier = ADMClassifier(task.width // 2, CLASSES, **common, time_scale=1000.0)
    params, guide = unet.init(key, x, t, y), classifier.init(key, x, t)
    flat, back = jax.flatten_util.ravel_pytree((params, guide))
    params, guide = back(flat + 0.02 * jax.random.normal(jax.random.key(1), flat.shape))  # no layer is zero
    return unet.apply, params, classifier.apply, guide


def ours(task):
    import jax
    import jax.numpy as jnp

    import guidance_jax as gj
    from guidance_jax.sharding import memory, sample_mesh

    apply, params, classify, guide = jax_networks(task)
    model, noisy = (
        gj.Network(params, apply, gj.parameterizations.eps, batched=False),
        gj.NoisyClassifier(guide, classify, batched=False),
    )
    if task.cfg:
        kernel = gj.Reverse(gj.CFG(model, NULL, SCALE, in_turn=task.in_turn), gj.DDIM())
    else:
        kernel = gj.Reverse(gj.Classifier(gj.Unconditional(model, NULL), noisy, SCALE), gj.DDIM())
    n, shape = task.batch, task.shape
    lv = gj.Level(*(jnp.asarray(a, jnp.float32) for a in levels(task.steps)))
    args = gj.keys(0, n), kernel, lv, shape, jnp.arange(n) % CLASSES
    sizes = [sum(a.size for a in jax.tree.leaves(p)) for p in (params, guide)]
    about = {"jax": jax.__version__, "parameters": sizes, "temporary bytes": memory(sample_mesh(1), *args).temporary}

    xs = jax.random.normal(jax.random.key(2), (n, *shape))
    level, labels = lv.at(task.steps // 2), jnp.arange(n) % CLASSES

    @jax.jit
    def bare(params, guide, xs, labels):
        """What a guided step cannot do without: the network's forward pass, or two; the classifier's gradient."""
        if task.cfg:
            twice, both = jnp.concatenate([xs, xs]), jnp.concatenate([labels, jnp.full(n, NULL)])
            return jax.vmap(apply, (None, 0, None, 0))(params, twice, level.t, both)
        out = jax.vmap(lambda x: apply(params, x, level.t, jnp.array(NULL)))(xs)
        return out, jax.vmap(
            jax.value_and_grad(gj.NoisyClassifier(guide, classify, batched=False).log_prob), (0, None, 0)
        )(xs, level, labels)

    def networks():
        for _ in range(task.steps):
            jax.block_until_ready(bare(params, guide, xs, labels))

    return {"whole": lambda: jax.block_until_ready(gj.generate(*args)), "networks alone": networks}, about


def hackable(task):
    import jax
    import jax.numpy as jnp
    from hackable_diffusion.lib.corruption import gaussian, schedules
    from hackable_diffusion.lib.inference import diffusion_inference, guidance
    from hackable_diffusion.lib.sampling import gaussian_step_sampler, sampling, time_scheduling

    assert task.cfg, "it has no classifier guidance"
    apply, params, _, _ = jax_networks(task)
    n, shape = task.batch, task.shape

    def run(params, key, noise, labels):
        def network(time, xt, conditioning):
            y = jnp.full(n, NULL) if conditioning is None else conditioning["label"]
            return {"epsilon": jax.vmap(apply, (None, 0, 0, 0))(params, xt, time.reshape(n), y)}

        process = gaussian.GaussianProcess(schedule=schedules.CosineSchedule())
        sampler = sampling.DiffusionSampler(
            time_schedule=time_scheduling.UniformTimeSchedule(),
            stepper=gaussian_step_sampler.DDIMStep(corruption_process=process, stoch_coeff=0.0),
            num_steps=task.steps + 1,
            store_trajectory=False,
        )
        guided = diffusion_inference.GuidedDiffusionInferenceFn(
            base_inference_fn=network, guidance_fn=guidance.ScalarGuidanceFn(guidance=SCALE - 1)
        )
        return sampler(guided, key, noise, {"label": labels})[0].xt

    args = (
        params,
        jax.random.PRNGKey(0),
        jax.random.normal(jax.random.key(2), (n, *shape)),
        jnp.arange(n) % CLASSES,
    )
    compiled = jax.jit(run).lower(*args).compile()
    temporary = compiled.memory_analysis().temp_size_in_bytes
    about = {"jax": jax.__version__, "hackable-diffusion": "1.0.1", "temporary bytes": temporary}
    return {"whole": lambda: jax.block_until_ready(compiled(*args))}, about


def torch_networks(task):
    import torch
    from torch import nn

    from benchmarks.torch_mirrors import Classifier, UNet, by_channels, randomised

    if task.shape == LARGE:
        fields = (2, (1, 2, 2), (16, 8), by_channels(32))
        return randomised(UNet(32, task.width, *fields, classes=CLASSES + 1, out=3)), randomised(
            Classifier(32, task.width // 2, *fields, CLASSES)
        )

    class Convolutions(nn.Module):
        def __init__(self, sizes):
            super().__init__()
            self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in pairwise(sizes))

        def forward(self, x, t, y=None):
            for layer in self.layers[:-1]:
                x = nn.functional.silu(layer(x) + t[:, None, None, None])
            return self.layers[-1](x)

    class Small(Convolutions):
        def __init__(self, sizes):
            super().__init__(sizes)
            self.last = nn.Linear(sizes[-1], CLASSES)

        def forward(self, x, t):
            for layer in self.layers:
                x = nn.functional.silu(layer(x) + t[:, None, None, None])
            return self.last(x.mean((2, 3)))

    torch.manual_seed(0)
    return Convolutions([1] + [task.width] * 6 + [1]).eval(), Small([1] + [task.width] * 3).eval()


def torch_eager(task):
    """The official sampler's loop: two networks, autograd for the classifier, DDIM."""
    import torch

    unet, classifier = torch_networks(task)
    n, shape = task.batch, task.shape
    x_start = torch.randn(n, shape[2], *shape[:2])
    labels, null = torch.arange(n) % CLASSES, torch.full((n,), NULL)
    t, alpha, sigma = levels(task.steps)
    clock = 1.0 if task.shape != LARGE else 1000.0

    def cfg():
        x = x_start
        with torch.no_grad():
            for i in range(task.steps):
                times = torch.full((2 * n,), clock * t[i], dtype=torch.float32)
                c, u = unet(torch.cat([x, x]), times, torch.cat([labels, null])).chunk(2)
                eps = u + SCALE * (c - u)
                x = float(alpha[i + 1]) * (x - float(sigma[i]) * eps) / float(alpha[i]) + float(sigma[i + 1]) * eps
        return x

    def classifier_guided():
        x = x_start
        for i in range(task.steps):
            times = torch.full((n,), clock * t[i], dtype=torch.float32)
            with torch.no_grad():
                eps = unet(x, times, null)
            with torch.enable_grad():
                xin = x.detach().requires_grad_(True)
                log_p = torch.log_softmax(classifier(xin, times), -1)[torch.arange(n), labels].sum()
                gradient = torch.autograd.grad(log_p, xin)[0]
            eps = eps - SCALE * float(sigma[i]) * gradient
            x = float(alpha[i + 1]) * (x - float(sigma[i]) * eps) / float(alpha[i]) + float(sigma[i + 1]) * eps
        return x

    sizes = [sum(p.numel() for p in net.parameters()) for net in (unet, classifier)]
    about = {"torch": torch.__version__, "threads": torch.get_num_threads(), "parameters": sizes}
    return {"whole": cfg if task.cfg else classifier_guided}, about


def diffusers(task):
    import diffusers as library
    import torch
    from diffusers import DDIMScheduler

    assert task.cfg, "it has no classifier guidance"
    unet, _ = torch_networks(task)
    scheduler = DDIMScheduler(1000, beta_schedule="squaredcos_cap_v2", clip_sample=False)
    guider = library.ClassifierFreeGuidance(guidance_scale=SCALE)
    n, shape = task.batch, task.shape
    x_start = torch.randn(n, shape[2], *shape[:2])
    labels, null = torch.arange(n) % CLASSES, torch.full((n,), NULL)
    scheduler.set_timesteps(task.steps)

    def run():
        x = x_start
        with torch.no_grad():
            for i, t in enumerate(scheduler.timesteps):
                guider.set_state(step=i, num_inference_steps=task.steps, timestep=t)
                c, u = unet(torch.cat([x, x]), t.float().expand(2 * n), torch.cat([labels, null])).chunk(2)
                out = guider.forward(c, u)
                x = scheduler.step(getattr(out, "pred", out), t, x, eta=0.0).prev_sample
        return x

    return {"whole": run}, {"diffusers": library.__version__, "torch": torch.__version__}


def azula(task):
    import importlib.metadata

    import torch
    from azula.denoise import Denoiser, DiracPosterior
    from azula.guidance import CFGDenoiser
    from azula.noise import CosineSchedule
    from azula.sample import DDIMSampler

    assert task.cfg, "it has no classifier guidance"
    unet, _ = torch_networks(task)
    n, shape = task.batch, task.shape
    x_start = torch.randn(n, shape[2], *shape[:2])
    labels, null = torch.arange(n) % CLASSES, torch.full((n,), NULL)

    class Eps(Denoiser):
        def __init__(self):
            super().__init__()
            self.schedule = CosineSchedule()

        def forward(self, x_t, t, label=None):
            alpha, sigma = self.schedule(t)
            return DiracPosterior(mean=(x_t - sigma * unet(x_t, 1000 * t.expand(n), label)) / alpha)

    sampler = DDIMSampler(CFGDenoiser(Eps()), steps=task.steps, silent=True)

    def run():
        with torch.no_grad():
            return sampler(x_start, positive={"label": labels}, negative={"label": null}, guidance=SCALE - 1)

    return {"whole": run}, {"azula": importlib.metadata.version("azula"), "torch": torch.__version__}


WORKERS = {"guidance_jax": ours, "hackable": hackable, "torch": torch_eager, "diffusers": diffusers, "azula": azula}


def serve(name, task):
    """Warm up, then time one run for every line that comes in."""
    runs, about = WORKERS[name](TASKS[task])
    for run in runs.values():
        run(), run()
    print("ready " + json.dumps(about), flush=True)
    for line in sys.stdin:
        begin = time.perf_counter()
        runs[line.strip()]()
        print(f"seconds {time.perf_counter() - begin}", flush=True)


class Worker:
    def __init__(self, name, task, python):
        command = [python, "-m", "benchmarks.peers", name, task]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about = json.loads(self.answer("ready"))

    def answer(self, word):
        for line in self.process.stdout:
            if line.startswith(word + " "):
                return line[len(word) :]
        raise RuntimeError(f"{self.process.args[2:]} stopped; its message is above")

    def seconds(self, what):
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return float(self.answer("seconds"))


def compare(title, pythons, repeats):
    task = TASKS[title]
    names = [name for name in ("guidance_jax", *task.peers) if name in pythons]
    workers = {name: Worker(name, title, pythons[name]) for name in names}
    asked = [(name, "whole") for name in names]
    asked.append(("guidance_jax", "networks alone"))
    times = {key: [] for key in asked}
    for _ in range(repeats):
        for name, what in asked:
            times[name, what].append(workers[name].seconds(what))
    for worker in workers.values():
        worker.process.stdin.close()
        worker.process.wait()
    median = {key: 1e3 * float(np.median(found)) / task.steps for key, found in times.items()}
    for (name, what), step in median.items():
        measures = {"step": Measure(step, unit="ms"), "over ours": step / median["guidance_jax", "whole"]}
        yield Row({"task": title, "library": name, "part": what}, measures, workers[name].about)


@benchmark(quick={"tasks": ("small 32",), "repeats": 2})
def peers(pythons: tuple[str, ...] = (), tasks: tuple[str, ...] = tuple(TASKS), repeats: int = 9) -> Iterator[Row]:
    """How fast is a guided step beside other libraries?

    `--pythons torch=/venvs/torch/bin/python hackable=...`: the Python of each library; one that is not named is left
    out.
    """
    known = {"guidance_jax": sys.executable} | dict(p.split("=", 1) for p in pythons)
    for title in tasks:
        yield from compare(title, known, repeats)


if __name__ == "__main__":
    serve(*sys.argv[1:])
