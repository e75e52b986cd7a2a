"""Sequential Monte Carlo over the levels: the carry of one kernel is a whole population.

A `Move` says how one particle goes from level to level and what its log-weight gains; `SMC` does everything that
concerns the population.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from guidance_jax.core import Kernel, Move, Refused, float_type, is_sound, need, pytree, static
from guidance_jax.particles.resampling import Beam, systematic


class Population(NamedTuple):
    """n particles: the carry of a kernel of populations.

    Attributes:
      x: (n, *event).
      state: what each particle carries besides x.
      log_w: (n,), in nats, with mean weight 1; the rest of the weight is in `log_evidence`.
      log_evidence: a scalar, in nats.
      ess: the smaller effective sample size (sum w)^2 / sum w^2 of the last step: before resampling, or after it.
      dropped: the number of weights so far that were NaN or +inf.
      failed: sigma / alpha of the first level where all weights were zero; NaN if there is none.
    """

    x: Any
    state: Any
    log_w: Any
    log_evidence: Any
    ess: Any
    dropped: Any
    failed: Any


def equal_weights(x: Any, state: Any) -> Population:
    """Return a population of equal weights."""
    zero, count = jnp.zeros((), float_type(x)), jnp.zeros((), jnp.int32)
    return Population(x, state, jnp.zeros(len(x), float_type(x)), zero, zero + len(x), count, zero + jnp.nan)


class Followable:
    """A move whose step has a density, so that `particle_gibbs` can let a kept path continue from another particle."""

    model: Any

    @property
    def followable(self) -> bool:
        """Whether the step has a density; this can depend on the fields, for example on the solver."""
        return True

    def follow(self, found: Any, x: Any, t: Any, s: Any, cond: Any) -> tuple[Any, Any, Any]:
        """Return (state, gain, log_p). State and gain are those of `propose` if it draws `x`.

        log_p is the log-density of that step, less the potentials that the particle has paid so far.
        """
        raise NotImplementedError


class PopulationKernel(Kernel):
    """A kernel whose carry is a `Population`; `populations` runs it."""

    @property
    def population(self):
        return True

    def check_size(self, shape: tuple[int, ...]) -> None:
        """Raise `Refused` unless `shape` is (n, *event) with n of at least two."""
        if len(shape) < 1 or shape[0] < 2:
            raise Refused(f"a population needs at least two particles, got {shape[0] if shape else 'none'}; write n=16")


@pytree
class SMC(PopulationKernel):
    """Move a population by `move`, and resample it whenever its effective sample size is below `threshold` n.

    A weight that is NaN or +inf becomes zero and is counted. Start `sample` with x of shape (n, *event), or use
    `populations`.

    Attributes:
      move: `Twisted`, `Corrected`, `Steered`, `BestOf`, or a `Move` of your own.
      resample: f(key, log_w (n,)) -> indices (n,), from `guidance_jax.resampling`; or `Beam(width)`, a search.
      threshold: the share of n, from 0 to 1: 1 resamples at every step with unequal weights, 0 never.
      microbatch: the number of particles that go through the network at a time, which bounds the memory; None for all.

    Raises:
      Refused: fewer than two particles, or whatever the move refuses.
    """

    move: Any
    resample: Callable = static(default=systematic)
    threshold: Any = 0.5
    microbatch: int | None = static(default=None)

    @property
    def space(self):
        return self.move.space

    @property
    def overwritable(self):
        return self.move.overwritable

    def start(self, key, levels, shape):
        return self.move.start(key, levels, shape)

    def init(self, x):
        return equal_weights(x, jax.vmap(self.move.init)(x))

    def check(self, levels, shape, cond):
        need(self, self.move, Move, "the inner part")
        self.check_size(shape)
        self.move.check(levels, shape[1:], cond)

    @property
    def searches(self):
        """Whether `resample` is a `Beam`: the best particles keep their weights, and there is no evidence."""
        return isinstance(self.resample, Beam)

    def each(self, f, key, *args):
        """Return f(*args, key) of every particle, `microbatch` particles at a time."""
        args = (*args, jax.random.split(key, len(jax.tree.leaves(args)[0])))
        if self.microbatch is None:
            return jax.vmap(f)(*args)
        return jax.lax.map(lambda one: f(*one), args, batch_size=self.microbatch)

    def weigh(self, pop, gain, level):
        """Return the population with `gain` added to its log-weights, and all that follows from them updated."""
        bad = ~(gain < jnp.inf)  # nan or +inf
        log_w = pop.log_w + jnp.where(bad, -jnp.inf, gain)
        total = jax.nn.logsumexp(log_w) - jnp.log(len(log_w))
        alive = total > -jnp.inf
        log_w = jnp.where(alive, log_w - jnp.where(alive, total, 0), 0)
        ess = jnp.sum(jnp.exp(log_w)) ** 2 / jnp.sum(jnp.exp(2 * log_w))
        failed = jnp.where(jnp.isnan(pop.failed) & ~alive, level.sigma / level.alpha, pop.failed)
        dropped = pop.dropped + jnp.sum(bad & (pop.log_w > -jnp.inf)).astype(jnp.int32)
        return pop._replace(log_w=log_w, log_evidence=pop.log_evidence + total, ess=ess, dropped=dropped, failed=failed)

    def __call__(self, carry, t, s, cond, key):
        potential_key, resample_key, propose_key = jax.random.split(key, 3)
        n, move = len(carry.x), self.move
        found, gain = self.each(
            lambda x, state, k: move.potential(x, state, t, cond, k), potential_key, carry.x, carry.state
        )
        pop = self.weigh(carry, gain, t)

        def choose():
            index = self.resample(resample_key, pop.log_w).astype(jnp.int32)
            return index, pop.log_w[index] if self.searches else jnp.zeros_like(pop.log_w)

        index, log_w = jax.lax.cond(
            pop.ess < self.threshold * n, choose, lambda: (jnp.arange(n, dtype=jnp.int32), pop.log_w)
        )
        found = jax.tree.map(lambda a: a[index], found)  # with the state of the chosen particles
        x, state, gain = self.each(lambda one, k: move.propose(one, t, s, cond, k), propose_key, found)
        gain = jnp.where(jax.vmap(is_sound)(x), gain, jnp.nan)  # a failed particle gets weight zero
        moved = self.weigh(pop._replace(x=x, state=state, log_w=log_w), gain, s)
        return moved._replace(ess=jnp.minimum(pop.ess, moved.ess))  # what resampling hides is still told

    def finish(self, carry, level, cond, key):
        """Return the population at the clean level, with its last weights."""
        final = self.move.final_potential
        gain = self.each(lambda x, state, k: final(x, state, level, cond, k), key, carry.x, carry.state)
        pop = self.weigh(carry, gain, level)
        return pop._replace(log_evidence=pop.log_evidence + jnp.nan) if self.searches else pop
