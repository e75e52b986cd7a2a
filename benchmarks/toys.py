"""Published toys with the exact column that they lack."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linear_sum_assignment

import guidance_jax as gj
from benchmarks.suite import Row, benchmark
from guidance_jax.discrete import FirstHitting, TokenNetwork
from guidance_jax.guidance import Tempered
from guidance_jax.solvers import fixed_large

BOX, STD, COMPONENTS, BETA, UNIT = 40.0, 2.127, 40, 3.0, 50.0


def mixture() -> gj.GaussianMixture:
    """40 equal Gaussians, means uniform in a square of side 80, in units of 50."""
    means = np.random.default_rng(0).uniform(-BOX, BOX, (COMPONENTS, 2)) / UNIT
    classes = jnp.zeros(COMPONENTS, jnp.int32)
    return gj.GaussianMixture(jnp.asarray(means, jnp.float32), STD / UNIT, jnp.ones(COMPONENTS), classes)


class Cube:
    """p^beta of a mixture by enumeration of cells: its log normaliser and exact draws, in the mixture's own units."""

    def __init__(self, target, cells: int = 3000, side: float = 1.1):
        line = (np.arange(cells) + 0.5) / cells * 2 * side - side
        grid = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2).astype(np.float32)
        log_p = jax.jit(lambda x: jax.lax.map(target.log_prob, x, batch_size=4096))
        logs = BETA * np.concatenate([np.asarray(log_p(part), np.float64) for part in np.array_split(grid, 10)])
        self.cell, self.grid = line[1] - line[0], grid
        self.log_z = float(np.log(np.exp(logs - logs.max()).sum()) + logs.max() + 2 * np.log(self.cell))
        self.p = np.exp(logs - logs.max()) / np.exp(logs - logs.max()).sum()
        self.edges = np.linspace(-side, side, 101)

    def draw(self, n, seed):
        rng = np.random.default_rng(seed)
        chosen = self.grid[rng.choice(len(self.grid), n, p=self.p)]
        return (chosen + rng.uniform(-0.5, 0.5, (n, 2)) * self.cell).astype(np.float32)

    def histogram(self, x, weights=None):
        return np.histogram2d(*x.T, bins=self.edges, weights=weights)[0]


def measured(cube, target, x, seed):
    """Distances of samples from the cube; energies are -beta log p, lengths in the paper's units."""
    other = cube.draw(2000, 1000 + seed)
    x = x[np.random.default_rng(seed).permutation(len(x))]
    few = x[:2000]
    apart = UNIT * np.linalg.norm(few[:, None] - other, axis=-1)
    energy = [np.sort(-BETA * np.asarray(jax.vmap(target.log_prob)(jnp.asarray(a)))) for a in (few, other)]
    exact = cube.histogram(cube.grid, cube.p)
    share = cube.histogram(x) / len(x)
    return {
        "energy W2": float(np.sqrt(np.mean((energy[0] - energy[1]) ** 2))),
        "TV": float(0.5 * np.abs(share - exact / exact.sum()).sum()),
        "W1": float(apart[linear_sum_assignment(apart)].mean()),
        "W2": float(np.sqrt((apart**2)[linear_sum_assignment(apart**2)].mean())),
    }


def annealed(target, cube, n, steps, seeds):
    """Rows of the first toy: tempering alone, corrected by particles, exact samples."""
    levels = gj.schedules.log_snr_uniform(gj.VE(), steps, lo=0.01, hi=10.0)
    solver = gj.DDIM(1.0)
    # particles start at the normalised power of N(0, sigma^2): its normaliser is part of the evidence
    noise = 2 * np.pi * float(levels.sigma[0]) ** 2
    at_start = (1 - BETA) * np.log(noise) - np.log(BETA)
    for seed in range(seeds):
        key = gj.keys(seed, n)
        kernel = gj.Reverse(Tempered(target, jnp.float32(BETA)), solver)
        found = {"tempering alone": (np.asarray(gj.generate(key, kernel, levels, (2,))), None)}
        for name, proposal in (("corrected, systematic", None), ("corrected, moved by the model", 1.0)):
            move = gj.Corrected(Tempered(target, jnp.float32(BETA)), gj.DDPM(fixed_large), proposal)
            pop = gj.populations(gj.keys(seed, 1), gj.SMC(move, threshold=0.9), levels, (2,), n)
            index = np.random.default_rng(seed).choice(n, n, p=np.exp(pop.log_w[0]) / np.exp(pop.log_w[0]).sum())
            found[name] = (np.asarray(pop.x[0])[index], float(pop.log_evidence[0]) + at_start)
        found["exact samples"] = (cube.draw(n, seed), None)
        for name, (x, evidence) in found.items():
            more = {} if evidence is None else {"log evidence": evidence}
            yield Row({"toy": "mixture", "method": name, "seed": seed}, measured(cube, target, x, seed) | more)
    yield Row({"toy": "mixture", "method": "exact"}, {"log evidence": cube.log_z})


def ising(beta: float, side: int = 4) -> np.ndarray:
    """p(x) of a periodic lattice, coupling 1, all 2^(side^2) states, as a joint distribution of side^2 bits."""
    count = side * side
    states = ((np.arange(2**count)[:, None] >> np.arange(count - 1, -1, -1)) & 1).astype(np.int8)
    spins = (2 * states - 1).reshape(-1, side, side)
    bonds = (spins * np.roll(spins, 1, 1)).sum((1, 2)) + (spins * np.roll(spins, 1, 2)).sum((1, 2))
    p = np.exp(beta * bonds.astype(np.float64))
    return p / p.sum(), spins.reshape(-1, count).astype(np.float32), bonds, np.abs(spins.sum((1, 2))) / count


def lattice(params, x, t, cond):
    """log p(x_l | the decided spins) up to a constant, (L, 2), by two products with all states."""
    p, spins = params
    decided = jnp.where(x == 2, 0.0, 2.0 * x - 1)
    agrees = spins @ decided == jnp.sum(jnp.abs(decided))
    weight = p * agrees
    up, total = weight @ (spins > 0), jnp.sum(weight)
    return jnp.log(jnp.maximum(jnp.stack([total - up, up], 1), 1e-30))


def colder(trained, wanted, particles, runs, seeds):
    """Rows of the second toy: the model of one temperature asked for another."""
    p, spins, bonds, magnet = ising(trained)
    exact, *_ = ising(wanted)
    model = TokenNetwork((jnp.asarray(p, jnp.float32), jnp.asarray(spins)), lattice, gj.Absorbing(2), batched=False)
    places = 2 ** np.arange(15, -1, -1)
    levels, power = gj.RectifiedFlow().levels(16), jnp.float32(wanted / trained)
    log_z = float(np.log((p ** float(power)).sum()))

    flat = (
        (1 - float(power)) * 16 * np.log(2)
    )  # the flat model, uniform over the states, is part of the corrected target

    def summary(index, weights=None):
        return {
            "energy": float(-np.average(bonds[index], weights=weights)),
            "magnetisation": float(np.average(magnet[index], weights=weights)),
        }

    toy = {"toy": "Ising", "inverse temperature": f"{trained} to {wanted}"}
    tempered = Tempered(model, power)
    for seed in range(seeds):
        for name, guided in (("the model as it is", model), ("tempering alone", tempered)):
            x = gj.generate(gj.keys(seed, particles * runs), gj.Reverse(guided, FirstHitting()), levels, (16,))
            yield Row({**toy, "method": name, "seed": seed}, summary(np.asarray(x) @ places))
        move = gj.SMC(gj.Corrected(tempered, FirstHitting()))
        pop = gj.populations(gj.keys(seed, runs), move, levels, (16,), particles)
        total = pop.log_w + pop.log_evidence[:, None]  # runs weigh by their evidence
        weights = np.exp(np.asarray(total, np.float64) - float(total.max())).ravel()
        own = summary((np.asarray(pop.x) @ places).ravel(), weights)
        own["log evidence"] = float(jax.nn.logsumexp(total) - jnp.log(total.size)) + flat
        yield Row({**toy, "method": "corrected", "seed": seed}, own)
    everything = np.arange(len(exact))
    yield Row({**toy, "method": "exact"}, summary(everything, exact) | {"log evidence": log_z})


@benchmark(quick={"n": 2000, "steps": 3, "seeds": 1, "particles": 4})
def toys(n: int = 10_000, steps: int = 1000, seeds: int = 5, particles: int = 500, runs: int = 2) -> Iterator[Row]:
    """How near do published toys come to the exact answer?

    1. Annealing of a mixture of 40 Gaussians to its cube, Skreta et al. 2025 (arXiv 2503.02819, table A1): there 1,000
       steps and 10,000 particles, resampled at every step. Here the cube is enumerated on a grid of the plane, so its
       log normaliser is known, and what two sets of exact samples differ by. The means are other uniform draws.
    2. The Ising model, annealed to colder ones by masked diffusion, after 2601.10403: there 16 x 16, uniform noise and
       no exact answer; here 4 x 4, masks, all 65,536 states enumerated.
    """
    target = mixture()
    yield from annealed(target, Cube(target), n, steps, seeds)
    for trained, wanted in ((0.3, 0.35), (0.3, 0.4407)):
        yield from colder(trained, wanted, particles, runs, seeds)
