"""What fine-tuning to a reward samples, beside p(x) exp(scale r(x)) itself:  python benchmarks/rewards.py [--out FILE]

The exact mixture of the plane with four components in three classes, r = log p(y | x_0), so that the target at scale s
is p(x) p(y | x)^s and can be sampled exactly. Every fine-tuned model is the exact denoiser plus a small network that
starts at zero; guidance, search and particles on the exact denoiser stand beside them. Measured: the energy
distance to the target (the floor is that of exact draws), the spread over the target's, the mean reward, calls of the
model a sample, and calls of training. Rows that FILE has are kept.
"""

import argparse
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from timing import write

import guidance_jax as gj
from guidance_jax.core import CLEAN
from guidance_jax.kernels import SVDD
from guidance_jax.metrics.energy import energy_distance
from guidance_jax.particles.resampling import Beam
from guidance_jax.search import climb, trees, walk
from guidance_jax.solvers import GLASS
from guidance_jax.training.adjoint_matching import AdjointMatching
from guidance_jax.training.draft import DRaFT
from guidance_jax.training.fit import fit
from guidance_jax.training.nft import DiffusionNFT
from guidance_jax.training.policy_gradient import PolicyGradient
from guidance_jax.training.recipe import Recipe, networks

MIXTURE = gj.GaussianMixture(
    means=jnp.array([[2.0, 0.3], [-1.0, 1.5], [-1.2, -2.0], [0.4, 2.2]]),
    std=jnp.array([0.5, 0.4, 0.6, 0.3]),
    weights=jnp.array([0.4, 0.25, 0.2, 0.15]),
    classes=jnp.array([0, 1, 2, 1]),
)
LABEL, NULL, STEPS, SCHEDULE = 1, 3, 40, gj.Cosine()
LEVELS = gj.schedules.log_snr_uniform(SCHEDULE, STEPS, lo=0.05)
FEW = gj.schedules.log_snr_uniform(SCHEDULE, 10, lo=0.05)
FREE = gj.Unconditional(MIXTURE, NULL)
SOLVER = gj.DDIM(1.0)


def reward(x, level, cond):
    """log p(y | x_0), not below -20, where nothing can be told apart."""
    return jnp.maximum(MIXTURE.log_posterior(x, CLEAN, LABEL), -20.0)


def noisy(x, level, cond):
    return MIXTURE.log_posterior(x, level, LABEL)


def init(key, width=96):
    sizes = [5, width, width, width, 2]
    keys = jax.random.split(key, len(sizes) - 1)
    layers = [
        (jax.random.normal(k, (a, b)) / a**0.5, jnp.zeros(b))
        for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]
    return [*layers[:-1], jax.tree.map(jnp.zeros_like, layers[-1])]


def moved(params, x, level):
    log_ratio = jnp.log(jnp.clip(level.sigma / level.alpha, 1e-2, 1e2))
    h = jnp.concatenate([x, jnp.stack([log_ratio, jnp.cos(log_ratio), jnp.sin(log_ratio)])])
    for i, (w, b) in enumerate(params):
        h = h @ w + b
        h = jax.nn.silu(h) if i < len(params) - 1 else h
    return h


@gj.core.pytree
class Tuned(gj.core.Denoiser):
    """The exact denoiser, its noise estimate moved by a small network."""

    params: object

    def __call__(self, x, level, cond, state, key):
        pred = FREE(x, level, cond, (), None)[0]
        eps = pred.eps + moved(self.params, x, level)
        return gj.core.Prediction((x - level.sigma * eps) / level.alpha, eps), state


def nft_apply(params, x, t, cond):
    level = SCHEDULE(t)
    return Tuned(params)(x, level, cond, (), None)[0].eps


def steps_of(loss, steps, rate, batch):
    data = ((np.zeros((batch, 2), np.float32), np.zeros(batch, np.int32)) for _ in range(steps))
    optimizer = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(optax.cosine_decay_schedule(rate, steps)))
    params, _ = fit(loss, loss.model.params, data, steps=steps, optimizer=optimizer, ema=0.99)
    return Tuned(params)


def nft(rounds, steps, batch, beta, scale):
    """Each round draws from the model that it has, and takes the reward's exponential for the probability of good."""
    params = init(jax.random.key(0))

    def good(x, level, cond):
        return jnp.exp(scale * reward(x, level, cond))

    for i in range(rounds):
        x = np.asarray(gj.generate(gj.keys(100 + i, 8000), gj.Reverse(Tuned(params), SOLVER), LEVELS, (2,)))
        rng = np.random.default_rng(i)
        data = ((x[rows], np.zeros(batch, np.int32)) for rows in rng.integers(len(x), size=(steps, batch)))
        loss = DiffusionNFT(params, good, nft_apply, SCHEDULE, gj.parameterizations.eps, beta)
        params, _ = fit(loss, params, data, steps=steps, optimizer=optax.adam(1e-3), ema=0.99)
    return Tuned(params)


def searches(scale):
    """name: (keys, labels -> samples), and a sample's calls; a gradient through the chain counts as three of them."""
    random, flow = gj.Reverse(FREE, SOLVER), gj.Reverse(FREE, gj.DDIM())

    def tree(keys, labels):
        return trees(keys, gj.BestOf(random, reward, scale), LEVELS, (2,), 16, labels).draw(jax.random.key(2))

    def from_starts(search, **options):
        def run(keys, labels):
            found = search(keys, gj.BestOf(flow, reward, scale), LEVELS, (2,), labels, **options)
            return gj.generate(keys, flow, LEVELS, (2,), labels, x=found.x)

        return run

    return {
        "tree of 16": (tree, 16 * STEPS),
        "walk over starts, 15 steps": (from_starts(walk, steps=15, size=0.5), 16 * STEPS),
        "walk over starts, 100 steps": (from_starts(walk, steps=100, size=0.5), 101 * STEPS),
        "climb over starts, 30 steps (D-Flow)": (from_starts(climb, steps=30), 91 * STEPS),
    }


def memory(steps=50):
    """Megabytes that the gradient through a chain of a U-Net on 28 x 28 images needs, by K and remat; compiled only."""
    unet, _ = networks((28, 28, 1), 10, Recipe(width=32))
    image = jnp.zeros((28, 28, 1))
    params = jax.eval_shape(lambda: unet.init(jax.random.key(0), image, jnp.zeros(()), jnp.zeros((), int)))
    levels, found = SCHEDULE.levels(steps), []
    for last in (1, 10, steps):
        for remat in (True, False):
            loss = DRaFT(
                gj.Network(params, unet.apply, batched=False),
                SOLVER,
                lambda x, level, cond: jnp.mean(x),
                levels,
                last=last,
                remat=remat,
            )
            compiled = jax.jit(jax.grad(loss)).lower(params, jax.random.key(0), image, jnp.array(0)).compile()
            size = compiled.memory_analysis().temp_size_in_bytes / 1e6
            found.append({"last": last, "remat": remat, "megabytes": round(size, 1)})
            print(found[-1], flush=True)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("rewards.json"))
    parser.add_argument("--n", type=int, default=8000)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 3.0])
    args = parser.parse_args()
    settings = {k: str(v) for k, v in vars(args).items() if k != "out"}
    old = json.loads(args.out.read_text()) if args.out.exists() else {}
    kept = old if old.get("settings") == settings else {"memory": memory(), "rows": []}
    start, rows, needs = Tuned(init(jax.random.key(0))), kept["rows"], kept["memory"]
    done = {(r["method"], r["scale"]) for r in rows}
    labels = jnp.full(args.n, LABEL)
    for scale in args.scales:
        common = (start, SOLVER, reward, LEVELS, scale)
        cost = args.steps * args.batch
        losses = {  # and the calls of a network that a step of each makes
            "adjoint matching": (AdjointMatching(*common, base=start), 4),
            "policy gradient with KL": (PolicyGradient(*common, base=start), 6),
            "policy gradient without (DDPO)": (PolicyGradient(*common, base=start, kl=0.0), 4),
            "DRaFT-1": (DRaFT(*common, last=1), 1),
            "DRaFT-10": (DRaFT(*common, last=10), 1),
            "DRaFT, all steps (AlignProp)": (DRaFT(*common, last=STEPS), 1),
            "DRaFT, all steps, with KL": (DRaFT(*common, last=STEPS, base=start), 2),
        }
        guided = {
            "no guidance": (gj.Reverse(FREE, SOLVER), STEPS),
            "classifier guidance, exact noisy classifier": (
                gj.Reverse(gj.Classifier(FREE, noisy, scale), SOLVER), STEPS),
            "reconstruction guidance": (gj.Reverse(gj.Reconstruction(FREE, reward, scale), SOLVER), 2 * STEPS),
            "SVDD, 16 children": (SVDD(FREE, SOLVER, reward, scale, 16), 17 * STEPS),
        }  # fmt: skip
        particles = {
            "best of 16": (gj.SMC(gj.BestOf(gj.Reverse(FREE, SOLVER), reward, scale), threshold=0.0), STEPS, LEVELS),
            "steered particles, 16 (FK)": (gj.SMC(gj.Steered(FREE, SOLVER, reward, scale)), STEPS, LEVELS),
            "steered particles, 16, ten GLASS steps of four": (
                gj.SMC(gj.Steered(FREE, GLASS(SCHEDULE, 4), reward, scale)),
                STEPS,
                FEW,
            ),
            "beam of 2 of 16": (gj.SMC(gj.Steered(FREE, SOLVER, reward, scale), Beam(2), threshold=1.0), STEPS, LEVELS),
            "twisted particles, 16": (gj.SMC(gj.Twisted(FREE, SOLVER, noisy, scale, noisy=True)), 2 * STEPS, LEVELS),
        }
        exact = np.asarray(MIXTURE.sample_tilted(jax.random.key(7), args.n, LABEL, scale))
        other = np.asarray(MIXTURE.sample_tilted(jax.random.key(8), args.n, LABEL, scale))
        values = jax.jit(jax.vmap(lambda x: reward(x, None, None)))

        def row(name, x, calls, training, seconds, scale=scale, exact=exact, values=values):
            rows.append(
                {"method": name, "scale": scale, "distance": float(energy_distance(exact, x)),
                 "spread": float(np.linalg.norm(np.std(x, 0)) / np.linalg.norm(np.std(exact, 0))),
                 "reward": float(jnp.mean(values(x))), "calls": calls, "training": training,
                 "seconds": round(seconds, 1)}
            )  # fmt: skip
            print({k: round(v, 4) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
            write(args.out, settings=settings, memory=needs, rows=rows)

        def todo(found, scale=scale):
            return {name: how for name, how in found.items() if (name, scale) not in done}

        for name in todo({"exact draws (the floor)": None}):
            row(name, other, 0, 0, 0.0)
        for name, (kernel, calls) in todo(guided).items():
            begin = time.perf_counter()
            x = np.asarray(gj.generate(gj.keys(1, args.n), kernel, LEVELS, (2,), labels))
            row(name, x, calls, 0, time.perf_counter() - begin)
        for name, (kernel, calls, levels) in todo(particles).items():
            begin = time.perf_counter()
            found = gj.populations(gj.keys(1, args.n), kernel, levels, (2,), 16, labels)
            row(name, np.asarray(found.draw(jax.random.key(2))), 16 * calls, 0, time.perf_counter() - begin)
        for name, (search, calls) in todo(searches(scale)).items():
            begin = time.perf_counter()
            row(name, np.asarray(search(gj.keys(1, args.n), labels)), calls, 0, time.perf_counter() - begin)
        for name, (loss, calls) in todo(losses).items():
            begin = time.perf_counter()
            model = steps_of(loss, args.steps, 1e-3, args.batch)
            seconds = time.perf_counter() - begin
            x = np.asarray(gj.generate(gj.keys(1, args.n), gj.Reverse(model, SOLVER), LEVELS, (2,)))
            row(name, x, STEPS, calls * cost * STEPS, seconds)
        for name in todo({"DiffusionNFT, 3 rounds": None}):
            begin = time.perf_counter()
            model = nft(3, args.steps // 3, args.batch, 1.0, scale)
            x = np.asarray(gj.generate(gj.keys(1, args.n), gj.Reverse(model, SOLVER), LEVELS, (2,)))
            row(name, x, STEPS, 2 * cost + 3 * 8000 * STEPS, time.perf_counter() - begin)


if __name__ == "__main__":
    main()
