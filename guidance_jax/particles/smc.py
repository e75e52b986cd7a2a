"""Sequential Monte Carlo over the levels: a population is one state of a larger kernel.

A move says how one particle goes from level to level and what its weight gains; `SMC` does everything that concerns
the population. A move has

    init(x) -> guide                                            what a particle carries besides x
    look(x, guide, t, cond, key) -> (seen, gain)                at its level, before it moves
    go(seen, t, s, cond, key) -> (x, guide, gain)               the transition
    finish(x, guide, level, cond, key) -> gain                  at the clean level
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from guidance_jax.core import check, pytree, real, static
from guidance_jax.particles.resample import systematic


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
    zero, count = jnp.zeros((), real(x)), jnp.zeros((), jnp.int32)
    return Population(x, guide, jnp.zeros(len(x), real(x)), zero, zero + len(x), count, zero + jnp.nan)


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
