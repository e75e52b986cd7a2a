"""Sequential Monte Carlo over the levels: a population is one state of a larger kernel.

A move says how one particle goes from level to level and what its weight gains; `SMC` does everything that concerns
the population. A move has

    init(x) -> guide                                            what a particle carries besides x
    look(x, guide, t, cond, key) -> (seen, gain)                at its level, before it moves
    go(seen, t, s, cond, key) -> (x, guide, gain)               the transition
    finish(x, guide, level, cond, key) -> gain                  at the clean level
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax._typing import Array, Key
from guidance_jax.core import Level, check, normal, pytree, static
from guidance_jax.particles.resample import systematic
from guidance_jax.sample import check_levels, sample, strong


class Population(NamedTuple):
    """n particles; `log_w` has mean weight 1, the rest of the weight is in `log_evidence`."""

    x: Any  # (n, *event)
    guide: Any
    log_w: Any  # (n,)
    log_evidence: Any
    ess: Any  # (sum w)^2 / sum w^2, before resampling
    dropped: Any  # weights that were not a number, so far
    failed: Any  # sigma / alpha where all weights were zero; nan if nowhere


def fresh(x: Any, guide: Any) -> Population:
    """A population of equal weights."""
    zero, count = jnp.zeros((), x.dtype), jnp.zeros((), jnp.int32)
    return Population(x, guide, jnp.zeros(len(x), x.dtype), zero, zero + len(x), count, zero + jnp.nan)


@pytree
class SMC:
    """`move` over a population, resampled by `resample` whenever ESS < threshold n: 1 always, 0 never.

    `microbatch` particles at a time go through the network (None: all), so memory need not grow with the population.
    A weight that is not a number is zero and counted. Start `sample` with x of shape (n, *event), or use `populations`.

    Raises:
      ValueError: fewer than two particles.
    """

    move: Any
    resample: Callable = static(default=systematic)
    threshold: Any = 0.5
    microbatch: int | None = static(default=None)

    def init(self, x):
        return fresh(x, jax.vmap(self.move.init)(x))

    def check(self, levels, shape, cond):
        if shape[0] < 2:
            raise ValueError(f"a population needs at least two particles to resample, got {shape[0]}; write n=16")
        check(self.move, levels, shape[1:], cond)

    def each(self, f, key, *args):
        """f(*one particle's args, key) for all, in microbatches."""
        args = (*args, jax.random.split(key, len(jax.tree.leaves(args)[0])))
        if self.microbatch is None:
            return jax.vmap(f)(*args)
        return jax.lax.map(lambda one: f(*one), args, batch_size=self.microbatch)

    def weigh(self, pop, gain, level):
        """The population with log-weights raised by `gain`, and everything that follows from them."""
        bad = ~(gain < jnp.inf)  # nan or +inf
        log_w = pop.log_w + jnp.where(bad, -jnp.inf, gain)
        total = jax.nn.logsumexp(log_w) - jnp.log(len(log_w))
        alive = total > -jnp.inf
        log_w = jnp.where(alive, log_w - jnp.where(alive, total, 0), 0)
        ess = jnp.sum(jnp.exp(log_w)) ** 2 / jnp.sum(jnp.exp(2 * log_w))
        failed = jnp.where(jnp.isnan(pop.failed) & ~alive, level.sigma / level.alpha, pop.failed)
        dropped = pop.dropped + jnp.sum(bad & (pop.log_w > -jnp.inf)).astype(jnp.int32)
        return pop._replace(log_w=log_w, log_evidence=pop.log_evidence + total, ess=ess, dropped=dropped, failed=failed)

    def __call__(self, pop, t, s, cond, key):
        first, second, third = jax.random.split(key, 3)
        n = len(pop.x)
        seen, gain = self.each(lambda x, guide, k: self.move.look(x, guide, t, cond, k), first, pop.x, pop.guide)
        pop = self.weigh(pop, gain, t)
        index, log_w = jax.lax.cond(
            pop.ess < self.threshold * n,
            lambda: (self.resample(second, pop.log_w).astype(jnp.int32), jnp.zeros_like(pop.log_w)),
            lambda: (jnp.arange(n, dtype=jnp.int32), pop.log_w),
        )
        seen = jax.tree.map(lambda a: a[index], seen)  # all that a particle owns
        x, guide, gain = self.each(lambda seen, k: self.move.go(seen, t, s, cond, k), third, seen)
        return self.weigh(pop._replace(x=x, guide=guide, log_w=log_w), gain, s)

    def finish(self, pop, level, cond, key):
        """The population at the clean level, with its last weights."""
        gain = self.each(lambda x, guide, k: self.move.finish(x, guide, level, cond, k), key, pop.x, pop.guide)
        return self.weigh(pop, gain, level)


class Particles(NamedTuple):
    """What a particle method returns, one population per key."""

    x: Array  # (runs, n, *event)
    log_w: Array  # (runs, n), mean weight 1
    log_evidence: Array  # (runs,), log of an unbiased estimate of the evidence of the chain
    ess: Array  # (runs, steps + 1), before each resampling and at the end
    dropped: Array  # (runs,), weights that were not a number

    def best(self) -> Array:
        """The particle of the largest weight of each run, (runs, *event)."""
        index = jnp.argmax(self.log_w, -1)
        return jax.vmap(lambda x, i: x[i])(self.x, index)

    def draw(self, key: Key[Array, ""]) -> Array:
        """One particle of each run, by weight: (runs, *event)."""
        index = jax.random.categorical(key, self.log_w)
        return jax.vmap(lambda x, i: x[i])(self.x, index)


def _start(kernel: Any) -> Any:
    """How much wider than N(0, sigma^2) the first level of the target is."""
    return getattr(getattr(kernel, "move", kernel), "start_scale", 1.0)


@partial(jax.jit, static_argnames=("shape", "n"))
def _populations(keys, kernel, levels, shape, n, cond):
    def one(key, cond):
        first, second, third = jax.random.split(key, 3)
        sigma = jnp.asarray(levels.sigma[0], jnp.promote_types(levels.sigma.dtype, jnp.float32))
        x = _start(kernel) * sigma * normal(first, jnp.zeros((n, *shape), sigma.dtype))
        pop, ess = sample(second, kernel, levels, x, cond, record=lambda pop: pop.ess)
        if hasattr(kernel, "finish"):
            pop = kernel.finish(pop, levels.at(-1), cond, third)
        return Particles(pop.x, pop.log_w, pop.log_evidence, jnp.append(ess, pop.ess), pop.dropped), pop.failed

    return jax.vmap(one)(keys, cond)


def populations(
    keys: Key[Array, " runs"], kernel: Any, levels: Level, shape: tuple[int, ...], n: int, cond: Any = None
) -> Particles:
    """One population of `n` particles per key, from noise, in one compiled program.

    Args:
      keys: `(runs,)` keys, for example `keys(seed, runs)`.
      kernel: `SMC(move)`, or `ParticleGuidance(...)`.
      levels: as in `sample`; weights are only exact if the last level is clean.
      shape: the shape of one particle.
      n: particles per run, at least two.
      cond: what each run is conditioned on, leaves with leading axis `runs`, or None.

    Raises:
      ValueError: what the kernel refuses; a run in which all weights were zero, with the level where it happened.
    """
    check_levels(levels)
    check(kernel, levels, (n, *shape), cond)
    kernel, levels = jax.tree.map(strong, (kernel, levels))
    found, failed = _populations(keys, kernel, levels, tuple(shape), n, jax.tree.map(jnp.asarray, cond))
    if not isinstance(failed, jax.core.Tracer) and (lost := np.flatnonzero(~np.isnan(failed))).size:
        raise ValueError(
            f"all {n} weights were zero in run {lost[0]}, first at sigma / alpha = {float(failed[lost[0]]):.4g}: no "
            "particle can explain the condition there; take more particles or a flatter likelihood"
        )
    return found
