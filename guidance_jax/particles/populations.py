"""Run particle methods: one population per key, in one compiled program, with weights and effective sample sizes."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax._typing import Array, Float, Int, Key
from guidance_jax.core import Kernel, Level, Refused, need, rows
from guidance_jax.sample import prepare, sample


class Particles(NamedTuple):
    """What a particle method returns, one population per key.

    Attributes:
      x: the particles, (runs, n, *event).
      log_w: their log-weights in nats, (runs, n); the mean weight of each run is 1.
      log_evidence: log of an unbiased estimate of the evidence of the chain, in nats, (runs,).
      ess: the effective sample size of each step, the smaller one of before and after resampling, and at the end.
      dropped: the number of weights that were NaN or +inf, (runs,).
    """

    x: Array  # (runs, n, *event)
    log_w: Float[Array, "runs n"]
    log_evidence: Float[Array, " runs"]
    ess: Float[Array, "runs steps"]
    dropped: Int[Array, " runs"]

    @property
    def collapsed(self) -> Array:
        """Which runs (runs,) rest on very few particles: an `ess` below 2, or below 1 % of n, at some step.

        The evidence of such a run is unbiased in theory, but evidence and draws are useless in practice. Take more
        particles, or a twist with the covariance of the clean sample (`LinearTwist` for linear measurements).
        """
        return jnp.min(self.ess, -1) < max(2.0, 0.01 * self.x.shape[1])

    def best(self) -> Array:
        """Return the particle with the largest weight of each run, (runs, *event)."""
        index = jnp.argmax(self.log_w, -1)
        return jax.vmap(lambda x, i: x[i])(self.x, index)

    def draw(self, key: Key[Array, ""]) -> Array:
        """Draw one particle of each run by weight, (runs, *event)."""
        index = jax.random.categorical(key, self.log_w)
        return jax.vmap(lambda x, i: x[i])(self.x, index)


@partial(jax.jit, static_argnames=("shape", "n"))
def _populations(keys, kernel, levels, shape, n, cond):
    def one(key, kernel, cond):
        start_key, step_key, _ = jax.random.split(key, 3)
        x = kernel.start(start_key, levels, (n, *shape))
        pop, ess = sample(step_key, kernel, levels, x, cond, record=lambda pop: pop.ess)
        return Particles(
            jax.vmap(kernel.space.mark_unfinished)(pop.x),
            pop.log_w,
            pop.log_evidence,
            jnp.append(ess, pop.ess),
            pop.dropped,
        ), pop.failed

    return jax.vmap(one, in_axes=(0, rows(kernel), 0))(keys, kernel, cond)


def populations(keys: Array, kernel: Any, levels: Level, shape: tuple[int, ...], n: int, cond: Any = None) -> Particles:
    """Draw one population of `n` particles per key, from noise, in one compiled program.

    Args:
      keys: `(runs,)` keys, for example `keys(seed, runs)`.
      kernel: `SMC(move)`, or `ParticleGuidance(...)`, or a wrapper around them such as `Infill`.
      levels: from noisy to clean, one more than the steps; the weights are exact only if the last level is clean.
      shape: the shape of one particle.
      n: the number of particles per run, at least two.
      cond: the condition of each run, a pytree whose leaves have leading axis `runs`, or None.

    Raises:
      Refused: a kernel of single samples, or what the kernel refuses; a run in which all weights were zero, with the
        level where it happened.
    """
    need("populations", kernel, Kernel, "the kernel")
    if not kernel.population:
        raise Refused(
            f"populations needs a kernel for populations, got {type(kernel).__name__}; write SMC(BestOf(kernel, "
            "reward)), or generate(...) for single samples"
        )
    keys, kernel, levels = prepare(keys, kernel, levels, (n, *shape), cond)
    return not_lost(n, *_populations(keys, kernel, levels, tuple(shape), n, jax.tree.map(jnp.asarray, cond)))


def not_lost(n: int, found: Particles, failed: Any) -> Particles:
    """Return `found`; raise `Refused` if all weights of a run were zero, where `failed` is sigma / alpha, not NaN."""
    if not isinstance(failed, jax.core.Tracer) and (lost := np.flatnonzero(~np.isnan(failed))).size:
        raise Refused(
            f"all {n} weights were zero in run {lost[0]}, first at sigma / alpha = {float(failed[lost[0]]):.4g}: no "
            "particle can explain the condition there; use more particles or a flatter likelihood"
        )
    return found
