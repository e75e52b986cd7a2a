"""Ways to sample p(x) exp(scale r(x)) on a mixture that can be sampled exactly."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import guidance_jax as gj
from benchmarks.suite import Measure, Row, benchmark
from guidance_jax.app.recipe import Recipe, networks
from guidance_jax.core import CLEAN
from guidance_jax.finetune.adjoint_matching import AdjointMatching
from guidance_jax.finetune.draft import DRaFT
from guidance_jax.finetune.nft import DiffusionNFT
from guidance_jax.finetune.policy_gradient import PolicyGradient
from guidance_jax.kernels import SVDD
from guidance_jax.oracles.energy import energy_distance
from guidance_jax.particles.resampling import Beam
from guidance_jax.search import climb, trees, walk
from guidance_jax.solvers import GLASS
from guidance_jax.training.fit import fit

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


class Way(NamedTuple):
    """`draw(keys, labels)` gives a sample a key; calls of the model for one of them, and calls of training before."""

    draw: Callable[[Any, Any], Any]
    calls: int
    training: int = 0


def generated(kernel, per_step):
    return Way(lambda keys, labels: gj.generate(keys, kernel, LEVELS, (2,), labels), per_step * STEPS)


def population(move, per_step, levels=LEVELS):
    draw = lambda keys, labels: gj.populations(keys, move, levels, (2,), 16, labels).draw(jax.random.key(2))  # noqa: E731
    return Way(draw, 16 * per_step * STEPS)


def tree(scale):
    move = gj.BestOf(gj.Reverse(FREE, SOLVER), reward, scale)
    return Way(lambda keys, labels: trees(keys, move, LEVELS, (2,), 16, labels).draw(jax.random.key(2)), 16 * STEPS)


def from_starts(search, scale, chains, **options):
    """A gradient through the chain counts as three of them."""
    flow = gj.Reverse(FREE, gj.DDIM())

    def draw(keys, labels):
        found = search(keys, gj.BestOf(flow, reward, scale), LEVELS, (2,), labels, **options)
        return gj.generate(keys, flow, LEVELS, (2,), labels, x=found.x)

    return Way(draw, chains * STEPS)


def fine_tuned(train, training):
    """`train()` gives a model, for that many calls of it."""
    draw = lambda keys, labels: gj.generate(keys, gj.Reverse(train(), SOLVER), LEVELS, (2,))  # noqa: E731
    return Way(draw, STEPS, training)


def methods(scale, steps, batch) -> dict[str, Way]:
    """What samples p(x) exp(scale reward(x)), or tries to."""
    start, chains = Tuned(init(jax.random.key(0))), steps * batch
    common = start, SOLVER, reward, LEVELS, scale

    def taught(loss, per_step):
        """`per_step` calls of a network at every step of its chains."""
        return fine_tuned(lambda: steps_of(loss, steps, 1e-3, batch), per_step * chains * STEPS)

    plain = gj.Reverse(FREE, SOLVER)
    steered = gj.Steered(FREE, SOLVER, reward, scale)
    exact = lambda keys, labels: MIXTURE.sample_tilted(jax.random.key(8), len(keys), LABEL, scale)  # noqa: E731
    return {
        "exact draws (the floor)": Way(exact, 0),
        "no guidance": generated(plain, 1),
        "classifier guidance, exact noisy classifier": generated(
            gj.Reverse(gj.Classifier(FREE, noisy, scale), SOLVER), 1
        ),
        "reconstruction guidance": generated(gj.Reverse(gj.Reconstruction(FREE, reward, scale), SOLVER), 2),
        "SVDD, 16 children": generated(SVDD(FREE, SOLVER, reward, scale, 16), 17),
        "best of 16": population(gj.SMC(gj.BestOf(plain, reward, scale), threshold=0.0), 1),
        "steered particles, 16 (FK)": population(gj.SMC(steered), 1),
        "steered particles, 16, ten GLASS steps of four": population(
            gj.SMC(gj.Steered(FREE, GLASS(SCHEDULE, 4), reward, scale)), 1, FEW
        ),
        "beam of 2 of 16": population(gj.SMC(steered, Beam(2), threshold=1.0), 1),
        "twisted particles, 16": population(gj.SMC(gj.Twisted(FREE, SOLVER, noisy, scale, noisy=True)), 2),
        "tree of 16": tree(scale),
        "walk over starts, 15 steps": from_starts(walk, scale, 16, steps=15, size=0.5),
        "walk over starts, 100 steps": from_starts(walk, scale, 101, steps=100, size=0.5),
        "climb over starts, 30 steps (D-Flow)": from_starts(climb, scale, 91, steps=30),
        "adjoint matching": taught(AdjointMatching(*common, base=start), 4),
        "policy gradient with KL": taught(PolicyGradient(*common, base=start), 6),
        "policy gradient without (DDPO)": taught(PolicyGradient(*common, base=start, kl=0.0), 4),
        "DRaFT-1": taught(DRaFT(*common, last=1), 1),
        "DRaFT-10": taught(DRaFT(*common, last=10), 1),
        "DRaFT, all steps (AlignProp)": taught(DRaFT(*common, last=STEPS), 1),
        "DRaFT, all steps, with KL": taught(DRaFT(*common, last=STEPS, base=start), 2),
        "DiffusionNFT, 3 rounds": fine_tuned(
            lambda: nft(3, steps // 3, batch, 1.0, scale), 2 * chains + 3 * 8000 * STEPS
        ),
    }


def memory_of_chains(steps=50):
    """Megabytes that the gradient through a chain of a U-Net on 28 x 28 images needs, by K and remat; compiled only."""
    unet, _ = networks((28, 28, 1), 10, Recipe(width=32))
    image = jnp.zeros((28, 28, 1))
    params = jax.eval_shape(lambda: unet.init(jax.random.key(0), image, jnp.zeros(()), jnp.zeros((), int)))
    levels = SCHEDULE.levels(steps)
    for last in (1, 10, steps):
        for remat in (True, False):
            loss = DRaFT(
                gj.Network(params, unet.apply, gj.parameterizations.eps, batched=False),
                SOLVER,
                lambda x, level, cond: jnp.mean(x),
                levels,
                last=last,
                remat=remat,
            )
            compiled = jax.jit(jax.grad(loss)).lower(params, jax.random.key(0), image, jnp.array(0)).compile()
            size = compiled.memory_analysis().temp_size_in_bytes / 1e6
            yield Row({"DRaFT, last": last, "remat": remat}, {"temporary memory": Measure(round(size, 1), unit="MB")})


@benchmark(quick={"n": 50, "steps": 3, "batch": 4, "scales": (1.0,)})
def rewards(
    n: int = 8000, steps: int = 1500, batch: int = 128, scales: tuple[float, ...] = (1.0, 3.0), known: list = ()
) -> Iterator[Row]:
    """What does fine-tuning to a reward sample, beside p(x) exp(scale r(x)) itself, and what memory does it take?

    The exact mixture of the plane with four components in three classes, r = log p(y | x_0), so that the target at
    scale s is p(x) p(y | x)^s and can be sampled exactly. Every fine-tuned model is the exact denoiser plus a small
    network that starts at zero; guidance, search and particles on the exact denoiser stand beside them. Measured: the
    energy distance to the target (the floor is that of exact draws), the spread over the target's, the mean reward,
    calls of the model a sample, and calls of training.
    """
    done = [row["case"] for row in known]
    if not any("remat" in case for case in done):
        yield from memory_of_chains()
    labels = jnp.full(n, LABEL)
    values = jax.jit(jax.vmap(lambda x: reward(x, None, None)))
    for scale in scales:
        exact = np.asarray(MIXTURE.sample_tilted(jax.random.key(7), n, LABEL, scale))
        for name, way in methods(scale, steps, batch).items():
            case = {"method": name, "scale": scale}
            if case in done:
                continue
            x = np.asarray(way.draw(gj.keys(1, n), labels))
            measures = {
                "distance": energy_distance(exact, x),
                "spread": np.linalg.norm(np.std(x, 0)) / np.linalg.norm(np.std(exact, 0)),
                "reward": jnp.mean(values(x)),
            }
            yield Row(case, measures, {"calls": way.calls, "calls of training": way.training})
