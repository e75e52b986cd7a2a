"""An autoregressive flow of Fashion-MNIST beside the diffusion model that ships: quality, density, speed."""

import dataclasses
import math
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import guidance_jax as gj
from benchmarks.fashion import DATA, MODELS, RECIPE
from benchmarks.suite import Measure, Row, alternate, benchmark
from guidance_jax.app.recipe import train_flow
from guidance_jax.datasets.idx import FASHION, idx
from guidance_jax.flows import AffineGuidance, PatchByPatch, decode, importance, patch_levels
from guidance_jax.metrics.report import evaluate
from guidance_jax.zoo.tarflow import bits_per_number, decode_images

NULL = 10
FLOW = dataclasses.replace(RECIPE, width=24, steps=5000)
RULES = {
    "product": lambda model, scale: gj.CFG(model, NULL, scale),
    "affine": lambda model, scale: AffineGuidance(model, gj.Unconditional(model, NULL), scale),
    "affine, annealed": lambda model, scale: AffineGuidance(model, gj.Unconditional(model, NULL), scale, annealed=True),
}


@benchmark(quick={"samples": 20, "seeds": 1, "steps": 3})
def flows(
    data: Path = DATA, folder: Path = MODELS, samples: int = 500, seeds: int = 3, steps: int = FLOW.steps
) -> Iterator[Row]:
    """(trains a flow in half an hour on two cores) How good is a guided flow, beside a guided diffusion model?"""
    seen = idx(data, names=FASHION)
    model = train_flow(folder / "flow_24", seen, dataclasses.replace(FLOW, steps=steps), progress=True)
    example = gj.examples.fashion()
    patches, numbers = model.domain.shape
    levels = patch_levels(patches, model.blocks)
    labels = np.arange(samples, dtype=np.int32) % 10

    def flow_images(rule, scale, seed):
        kernel = gj.Reverse(RULES[rule](model, scale), PatchByPatch())
        drawn = gj.generate(gj.keys(seed, samples), kernel, levels, (patches, numbers), labels)
        return np.clip(decode_images(model, drawn, labels), -1, 1)

    def diffusion_images(name, scale, seed):
        kernel = gj.Reverse(gj.Clip(gj.CFG(example.model, NULL, scale)), gj.DDIM())
        steps = int(name.split()[0])
        return np.asarray(gj.generate(gj.keys(seed, samples), kernel, gj.Cosine().levels(steps), (28, 28, 1), labels))

    ways = {f"flow, {rule}": partial(flow_images, rule) for rule in RULES}
    ways |= {f"diffusion, {name}": partial(diffusion_images, name) for name in ("5 steps", "15 steps")}
    for way, draw in ways.items():
        for scale in (0.0, 1.0, 1.5, 2.0, 3.0):
            yield quality(way, scale, draw, labels, example, seeds)
    yield from density(model, example, seen)
    yield from weights(model, levels, samples)
    yield from speed(model, levels)


def quality(way, scale, draw, labels, example, seeds):
    """Accuracy, Frechet distance, recall and diversity under the judge: means over the seeds, errors of those means."""
    found, seconds = [], []
    for seed in range(seeds):
        begin = time.perf_counter()
        images = draw(scale, seed)
        seconds.append(time.perf_counter() - begin)
        found.append(evaluate(images, labels, example.held_out, example.judge, repeats=1).json())
    measures = {}
    for name in ("accuracy", "frechet", "recall", "diversity"):
        values = np.array([report[name]["value"] for report in found])
        error = float(values.std(ddof=1) / math.sqrt(seeds)) if seeds > 1 else None
        measures[name] = Measure(float(values.mean()), error)
    return Row({"way": way, "scale": scale}, measures, {"ms an image": 1000 * min(seconds) / len(labels)})


def density(model, example, seen):
    """Bits a number of held-out images with noise added: of the flow, a Gaussian, the diffusion model's bound."""
    noise, held_out = 0.1, example.held_out
    yield Row({"density": "flow"}, {"bits": bits_per_number(model, held_out)})
    x = np.asarray(seen.images).reshape(len(seen), -1).astype(np.float64)
    mean, covariance = x.mean(0), np.cov(x.T) + noise**2 * np.eye(x.shape[1])
    y = np.asarray(held_out.images).reshape(len(held_out), -1) - mean
    y = y + noise * np.random.default_rng(0).normal(size=y.shape)
    log_p = -0.5 * np.einsum("nd,nd->n", y, np.linalg.solve(covariance, y.T).T)
    log_p = log_p.mean() - 0.5 * (np.linalg.slogdet(covariance)[1] + y.shape[1] * math.log(2 * math.pi))
    yield Row({"density": "Gaussian of all classes"}, {"bits": bits(log_p / y.shape[1])})
    yield Row({"density": "diffusion, bound of 400 steps"}, {"bits": bits(-bound(example.model, held_out, noise))})


def bits(log_p: float) -> float:
    """Of a number of an image of 256 levels in [-1, 1]."""
    return float(-log_p / math.log(2) + math.log2(127.5))


def bound(model, held_out, noise, steps=400, images=200):
    """The variational bound of -log p(x + noise e | label) a number, in nats, with the diffusion model as its chain.

    Of y = x + noise e and z = y + sqrt(r^2 - noise^2) e': E[y | z] = z + (r^2 - noise^2) (D(z) - z) / r^2.
    """
    variances = np.geomspace(60.0**2, 1e-4, steps + 1)
    levels = gj.Cosine().by_ratio(np.sqrt(variances + noise**2))

    @jax.jit
    def squared(key, y, label, level):
        variance = level.ratio**2 - noise**2
        z = y + jnp.sqrt(variance) * jax.random.normal(key, y.shape)
        clean = model(level.alpha * z, level, label, model.init(z), key)[0].x0
        return jnp.sum((y - z - variance * (clean - z) / level.ratio**2) ** 2)

    key = jax.random.key(0)
    y = jnp.asarray(held_out.images[:images])
    y = y + noise * jax.random.normal(jax.random.fold_in(key, steps + 1), y.shape)
    labels, size = jnp.asarray(held_out.labels[:images]), y[0].size
    errors = []
    for i in range(steps + 1):
        own = jax.random.split(jax.random.fold_in(key, i), images)
        errors.append(float(jnp.mean(jax.vmap(squared, (0, 0, 0, None))(own, y, labels, levels.at(i)))))
    precision = 1 / variances
    total = 0.5 * float(jnp.mean(jnp.sum(y**2, (1, 2, 3)))) * precision[0]  # of the noise that sampling starts from
    total += 0.5 * float(np.sum(np.diff(precision) * np.array(errors[:-1])))
    total += 0.5 * size * (math.log(2 * math.pi * errors[-1] / size) + 1)  # the last step, of the best variance
    return total / size


def weights(model, levels, samples):
    """The share of samples that are worth something once they are weighed by p_u^(1 - scale) p_c^scale."""
    patches, numbers = model.domain.shape
    for scale in (1.1, 1.5):

        def target(x, label, scale=scale):
            return (1 - scale) * model.log_prob(x, jnp.int32(NULL)) + scale * model.log_prob(x, label)

        for rule in ("product", "affine"):
            kernel = gj.Reverse(RULES[rule](model, scale), PatchByPatch())
            found = importance(
                gj.keys(0, 1), kernel, levels, (patches, numbers), samples, jnp.array([5]), log_target=target
            )
            share = float(found.ess[0, 0]) / samples
            yield Row({"weights": rule, "scale": scale}, {"effective share": share}, {"samples": samples})


def speed(model, levels, batch=32):
    """Patches a second: with the cache, without, and by parallel decoding, with its error."""
    patches, numbers = model.domain.shape
    z = jax.random.normal(jax.random.key(0), (batch, patches, numbers))
    labels = jnp.arange(batch) % 10
    kernel = gj.Reverse(model, PatchByPatch())

    @jax.jit
    def sequential():
        return jax.vmap(lambda z, y: gj.sample(jax.random.key(0), kernel, levels, z, y).x)(z, labels)

    def parallel(repeats):
        return jax.jit(lambda: jax.vmap(lambda z, y: decode(model, z, y, repeats=repeats))(z, labels))

    runs = {"with the cache": sequential, "without the cache": parallel(patches)}
    runs |= {f"parallel, {n} repetitions": parallel(n) for n in (4, 8, 16)}
    want = sequential()
    for name, seconds in alternate(runs, repeats=3).items():
        off = float(jnp.sqrt(jnp.mean((runs[name]() - want) ** 2)))
        yield Row(
            {"speed": name},
            {"patches a second": batch * patches / seconds, "off by": off},
            {"seconds": seconds, "batch": batch},
        )
