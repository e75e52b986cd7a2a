"""Autoguidance against CFG on a fractal in the plane, after Karras et al. 2024 (arXiv 2406.02507, section 3)."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import guidance_jax as gj
from benchmarks.suite import Row, benchmark
from guidance_jax.models.parameterizations import EDM

SIGMA_DATA, WIDTHS, ITERATIONS = 0.5, {"main": 64, "weak": 32, "both": 32}, {"main": 4096, "weak": 512, "both": 512}


def tree(seed: int, angle: float, depth: int = 6, beads: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(means, standard deviations, weights) along the branches of a tree that grows from the origin."""
    rng, found = np.random.default_rng(seed), []

    def grow(position, angle, length, level):
        if level == depth:
            return
        tip = position + length * np.array([np.cos(angle), np.sin(angle)])
        for step in range(beads):
            at = position + (step + 0.5) / beads * (tip - position)
            found.append((*at, 0.09 * length, length**1.3))
        for side in (-1, 1):
            turn = side * rng.uniform(0.35, 0.75)
            grow(tip, angle + turn, length * rng.uniform(0.6, 0.75), level + 1)

    grow(np.zeros(2), angle, 0.45, 0)
    beads_of = np.array(found)
    return beads_of[:, :2], beads_of[:, 2], beads_of[:, 3]


def two_trees() -> gj.GaussianMixture:
    """Two trees that leave the origin side by side and grow into each other."""
    trees = [tree(3, 0.55), tree(4, 1.25)]
    means, std, weights = (np.concatenate(parts) for parts in zip(*trees, strict=True))
    classes = np.repeat([0, 1], [len(t[0]) for t in trees])
    centre = np.average(means, axis=0, weights=weights)
    scale = SIGMA_DATA / np.sqrt(np.average((means - centre) ** 2, axis=0, weights=weights).mean())
    share = np.bincount(classes, weights)[classes]
    arrays = ((means - centre) * scale, std * scale, weights / share / 2)
    return gj.GaussianMixture(*(jnp.asarray(a, jnp.float32) for a in arrays), classes=jnp.asarray(classes))


def init(key, width):
    sizes = [4, *[width] * 4, 2]
    keys = jax.random.split(key, len(sizes) - 1)
    pairs = zip(sizes[:-1], sizes[1:], keys, strict=True)
    return [(jax.random.normal(k, (a, b)) * np.sqrt(2 / a), jnp.zeros(b)) for a, b, k in pairs]


def apply(params, x, t, cond=None):
    """A plain network of (x, log sigma / 4, 1) with SiLU."""
    h = jnp.concatenate([x, jnp.stack([t, jnp.ones_like(t)])])
    for i, (w, b) in enumerate(params):
        h = h @ w + b
        h = jax.nn.silu(h) if i < len(params) - 1 else h
    return h


HOW = EDM(sigma_data=SIGMA_DATA)


def train(target, label, width, iterations, seed=0, batch=1024):
    """Regress on the exact denoiser, log sigma ~ N(-2.3, 1.5^2) as in the paper; EMA of the parameters."""
    params = init(jax.random.key(seed), width)
    optimizer = optax.adam(lambda i: 1e-2 / jnp.sqrt(jnp.maximum(i / 512, 1)))

    def loss(params, key):
        first, second, third = jax.random.split(key, 3)
        levels = gj.VE()(jnp.exp(-2.3 + 1.5 * jax.random.normal(first, (batch,))))
        x0 = target.sample(second, batch, label)
        x = x0 + levels.sigma[:, None] * jax.random.normal(third, x0.shape)

        def one(x, level):
            exact = target(x, level, label, (), None)[0]
            out = apply(params, *HOW.inputs(x, level))
            return jnp.sum((out - HOW.target(exact.x0, exact.eps, level)) ** 2)

        return jnp.mean(jax.vmap(one)(x, levels))

    @jax.jit
    def step(params, ema, state, key, i):
        gradient = jax.grad(loss)(params, key)
        updates, state = optimizer.update(gradient, state)
        params = optax.apply_updates(params, updates)
        return params, optax.incremental_update(params, ema, jnp.maximum(1 / (i + 1), 0.01)), state

    ema, state = params, optimizer.init(params)
    for i in range(iterations):
        params, ema, state = step(params, ema, state, jax.random.fold_in(jax.random.key(seed + 1), i), i)
    return gj.Network(ema, apply, HOW, batched=False)


@benchmark(quick={"n": 200, "share": 0.01})
def fractal(n: int = 20_000, share: float = 1.0, picture: Path | None = None) -> Iterator[Row]:
    """Does autoguidance keep what CFG loses, where the truth is known?

    Two classes, each a branching tree of Gaussians with exact density. A main model of class A, a smaller and less
    trained one of class A (autoguidance's bad version), one of both classes of the same small size (CFG's unconditional
    model), all trained on the exact denoiser, for that share of the paper's steps. Measured: mean log-density of the
    samples under class A, and outliers, the share less likely than all but one in a thousand exact samples. Exact CFG,
    the exact model and exact samples stand beside them.
    """
    begin, target = time.perf_counter(), two_trees()
    labels = {"main": jnp.array(0), "weak": jnp.array(0), "both": target.null_label}
    nets = {
        name: train(target, labels[name], WIDTHS[name], max(int(share * ITERATIONS[name]), 1), seed)
        for seed, name in enumerate(("main", "weak", "both"))
    }
    yield Row({"networks": "all three"}, {}, {"seconds of training": time.perf_counter() - begin})
    levels = gj.schedules.karras(gj.VE(), 32, lo=0.002, hi=5.0)
    exact = gj.Conditioned(target, lambda cond: jnp.array(0))
    everything = gj.Unconditional(target, target.null_label)
    methods = {
        "no guidance": nets["main"],
        "CFG, 4": gj.Autoguidance(nets["main"], nets["both"], 4.0),
        "CFG, 2": gj.Autoguidance(nets["main"], nets["both"], 2.0),
        "autoguidance, 3": gj.Autoguidance(nets["main"], nets["weak"], 3.0),
        "autoguidance, 2": gj.Autoguidance(nets["main"], nets["weak"], 2.0),
        "exact model, exact CFG, 4": gj.Autoguidance(exact, everything, 4.0),
        "exact model": exact,
    }
    log_density = jax.jit(jax.vmap(partial(target.log_prob, label=0)))
    real = np.asarray(target.sample(jax.random.key(99), n, 0))
    line = float(jnp.quantile(log_density(real), 0.001))
    drawn = {}
    for name, model in methods.items():
        x = drawn[name] = np.asarray(gj.generate(gj.keys(0, n), gj.Reverse(model, gj.Heun()), levels, (2,)))
        values = np.asarray(log_density(x))
        spread = np.linalg.norm(np.std(x, 0)) / np.linalg.norm(np.std(real, 0))
        measures = {"mean log density": values.mean(), "outliers": (values < line).mean(), "spread": spread}
        yield Row({"method": name}, measures)
    yield Row({"method": "exact samples"}, {"mean log density": np.asarray(log_density(real)).mean()})
    if picture is not None:
        draw_picture(picture, {"exact samples": real, **drawn})


def draw_picture(path: Path, drawn: dict[str, np.ndarray]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(16, 4.4), sharex=True, sharey=True)
    for axis, name in zip(axes, ("exact samples", "no guidance", "CFG, 4", "autoguidance, 3"), strict=True):
        axis.scatter(*drawn[name][:6000].T, s=0.6, color="tab:orange", linewidths=0)
        axis.set_title(name)
        axis.set_aspect("equal")
    axes[0].set_xlim(-1.6, 1.9)
    axes[0].set_ylim(-1.2, 1.9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
