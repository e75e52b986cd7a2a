"""Black boxes: guided edits of sequences against a genetic algorithm at equal calls of the objective."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import guidance_jax as gj
from benchmarks.ehrlich_function import Ehrlich
from benchmarks.suite import Row, benchmark
from guidance_jax.discrete import NOS, LaMBO
from guidance_jax.training.token_losses import TokenDenoising, squared
from guidance_jax.zoo.sequence_models import token_model
from guidance_jax.zoo.transformer import Transformer

FLOW = gj.RectifiedFlow()


class Pool:
    """Everything that was asked of the objective so far, best first."""

    def __init__(self, objective, x):
        self.objective, self.known = objective, {}
        self.add(x)

    def add(self, x):
        """Ask about new sequences; infeasible ones cost a call too."""
        values = np.asarray(jax.vmap(self.objective)(jnp.asarray(x)))
        self.calls = getattr(self, "calls", 0) + len(x)
        for row, value in zip(np.asarray(x).tolist(), values.tolist(), strict=True):
            self.known[tuple(row)] = value

    def top(self, n):
        """The n best feasible sequences and their values."""
        order = sorted((v, k) for k, v in self.known.items() if np.isfinite(v))[::-1][:n]
        return np.asarray([k for _, k in order], np.int32), np.asarray([v for v, _ in order])

    def new(self, x, n, generator):
        """At most n of x that are not known, filled up with mutants."""
        fresh = [tuple(r) for r in dict.fromkeys(map(tuple, np.asarray(x).tolist())) if tuple(r) not in self.known][:n]
        best, _ = self.top(n)
        while len(fresh) < n:
            fresh += [tuple(r) for r in mutate(best, n - len(fresh), 32, generator).tolist()]
        return np.asarray(fresh, np.int32)


def mutate(parents, n, vocabulary, generator):
    """Two parents crossed at two points, and on average one and a half tokens changed."""
    a, b = parents[generator.integers(len(parents), size=n)], parents[generator.integers(len(parents), size=n)]
    length = parents.shape[1]
    cut = np.sort(generator.integers(length + 1, size=(n, 2)), 1)
    at = np.arange(length)
    child = np.where((at >= cut[:, :1]) & (at < cut[:, 1:]), b, a)
    change = generator.random(child.shape) < 1.5 / length
    return np.where(change, generator.integers(vocabulary, size=child.shape), child).astype(np.int32)


def genetic(pool, per_round, parents, generator, state):
    """A round of a genetic algorithm with truncation selection."""
    best, _ = pool.top(parents)
    return mutate(best, per_round, 32, generator), state


NETWORK = Transformer(33, 32, 32, width=96, depth=3, values=1, decoder=1)
OPTIMIZER = optax.adam(1e-3)
LOSS = TokenDenoising(NETWORK.apply, gj.Absorbing(32), FLOW, labelled=False, value_weight=1.0, value_loss=squared)


@jax.jit
def train(state, key, x, y):
    """All steps of one round in one scan: batches (steps, batch, L)."""

    def step(state, inputs):
        key, x, y = inputs

        def loss(params):
            return jnp.mean(jax.vmap(LOSS, in_axes=(None, 0, 0, 0))(params, jax.random.split(key, len(x)), x, y))

        params, inner = state
        updates, inner = OPTIMIZER.update(jax.grad(loss)(params), inner, params)
        return (optax.apply_updates(params, updates), inner), None

    return jax.lax.scan(step, state, (jax.random.split(key, len(x)), x, y))[0]


@gj.pytree
class Value:
    """The value head's prediction."""

    params: object

    def __call__(self, h, level, cond):
        return NETWORK.apply(self.params, h, method="value")[0]


def learned(pool, steps, generator, state):
    """A denoiser and value head trained further on the better known sequences, values as ranks from -1 to 1."""
    if state is None:
        params = NETWORK.init(jax.random.key(0), jnp.zeros(32, int), jnp.zeros(()))
        state = params, OPTIMIZER.init(params)
    x, _ = pool.top(2000)
    ranks = np.linspace(1, -1, len(x)).astype(np.float32)
    weights = 1 / (np.arange(len(x)) + 0.1 * len(x))
    index = generator.choice(len(x), (steps, 64), p=weights / weights.sum())
    return train(
        state, jax.random.key(int(generator.integers(2**31))), jnp.asarray(x[index]), jnp.asarray(ranks[index])
    )


def lambo(pool, per_round, parents, generator, state, *, allowed, steps, edits):
    """LaMBO-2 from the best sequences; its score is the value head's, feasibility is known."""
    state = learned(pool, steps, generator, state)
    model = token_model(NETWORK, state[0], gj.Absorbing(32), gj.Domain((32,), FLOW))
    best, _ = pool.top(parents)
    begin = jnp.asarray(best[generator.integers(len(best), size=per_round)])
    kernel = LaMBO(NOS(model, Value(state[0]), 1.0, rate=0.5, kl=0.05), feasible=Feasible(allowed), temperature=0.5)
    key = jax.random.key(int(generator.integers(2**31)))
    x = gj.generate(gj.keys(key, per_round), kernel, FLOW.levels(edits, start=0.12), (32,), x=begin)
    return pool.new(x, per_round, generator), state


@gj.pytree
class Feasible:
    allowed: object

    def __call__(self, x):
        return jnp.all(self.allowed[x[:-1], x[1:]])


def nos(pool, per_round, parents, generator, state, *, steps, masked):
    """NOS: a share of the positions of the best sequences masked at random and filled in by guided diffusion."""
    state = learned(pool, steps, generator, state)
    model = token_model(NETWORK, state[0], gj.Absorbing(32), gj.Domain((32,), FLOW))
    best, _ = pool.top(parents)
    begin = best[generator.integers(len(best), size=per_round)]
    begin = np.where(generator.random(begin.shape) < masked, 32, begin).astype(np.int32)
    kernel = gj.Reverse(NOS(model, Value(state[0]), 1.0, rate=0.5, kl=0.05), gj.Ancestral())
    key = jax.random.key(int(generator.integers(2**31)))
    x = gj.generate(gj.keys(key, per_round), kernel, FLOW.levels(4, start=masked), (32,), x=jnp.asarray(begin))
    return pool.new(x, per_round, generator), state


START = 1000  # random feasible sequences that every method knows


@benchmark(quick={"seeds": 1, "rounds": 1, "per_round": 8, "steps": 2})
def ehrlich(
    seeds: int = 5,
    rounds: int = 30,
    per_round: int = 250,
    parents: int = 100,
    steps: int = 150,
    only: tuple[str, ...] = ("genetic algorithm", "LaMBO-2", "NOS"),
    write_functions: Path | None = None,
    known: list = (),
) -> Iterator[Row]:
    """Do guided edits beat a genetic algorithm at equal calls of the objective?

    Ehrlich functions, V = 32, L = 32, 4 motifs of 4. Every method starts from the same random feasible sequences and
    gets the same number of calls per round. LaMBO-2 and NOS retrain a denoiser with a value head on what is known so
    far. Measures: the best value after so many calls. `--write-functions FILE` writes the functions for
    `ehrlich_official` and stops.
    """
    if write_functions is not None:
        return save_functions(write_functions, seeds)
    done = [row["case"] for row in known]
    for seed in range(seeds):
        objective = Ehrlich.random(seed)
        begin = np.asarray(objective.start(jax.random.key(100 + seed), START))
        ways = {
            "genetic algorithm": genetic,
            "LaMBO-2": partial(lambo, allowed=objective.allowed, steps=steps, edits=6),
            "NOS": partial(nos, steps=steps, masked=0.12),
        }
        for name in only:
            case = {"method": name, "seed": seed}
            if case in done:
                continue
            pool, state, generator = Pool(objective, begin), None, np.random.default_rng(seed)
            began, best = time.perf_counter(), {str(START): float(pool.top(1)[1][0])}
            for i in range(rounds):
                x, state = ways[name](pool, per_round, parents, generator, state)
                pool.add(x)
                best[str(START + per_round * (i + 1))] = float(pool.top(1)[1][0])
            yield Row(case, best, {"seconds": round(time.perf_counter() - began, 1)})


def save_functions(path: Path, seeds: int):
    """Every seed's tables and starts as arrays with a leading seed axis, and our values of starts and mutants."""
    arrays: dict[str, list] = {}
    for seed in range(seeds):
        objective = Ehrlich.random(seed)
        begin = np.asarray(objective.start(jax.random.key(100 + seed), 1000))
        check = np.concatenate([begin[:500], mutate(begin, 500, 32, np.random.default_rng(seed))])
        values = jax.vmap(objective)(jnp.asarray(check))
        tables = {name: getattr(objective, name) for name in ("allowed", "motifs", "spacings")}
        for name, value in {**tables, "start": begin, "check": check, "values": values}.items():
            arrays.setdefault(name, []).append(np.asarray(value))
    np.savez_compressed(path, **{name: np.stack(value) for name, value in arrays.items()})
