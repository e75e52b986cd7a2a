"""Running particle methods: one population per key, in one compiled program, with what must be known about it."""

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
      x: the particles.
      log_w: their log-weights, in nats, of mean weight 1 in each run.
      log_evidence: log of an unbiased estimate of the evidence of the chain, in nats.
      ess: the effective sample size before each resampling and at the end.
      dropped: weights that were not a number.
    """

    x: Array  # (runs, n, *event)
    log_w: Float[Array, "runs n"]
    log_evidence: Float[Array, " runs"]
    ess: Float[Array, "runs steps"]
    dropped: Int[Array, " runs"]

    @property
    def collapsed(self) -> Array:
        """Which runs (runs,) rest on hardly any particles: an effective sample size below 2, or 1 % of n, at some step.

        Their evidence and their draws are unbiased on paper and useless in practice: take more particles, or a twist
        that says what is not yet known (`LinearTwist` of linear measurements).
        """
        return jnp.min(self.ess, -1) < max(2.0, 0.01 * self.x.shape[1])

    def best(self) -> Array:
        """The particle of the largest weight of each run, (runs, *event)."""
        index = jnp.argmax(self.log_w, -1)
        return jax.vmap(lambda x, i: x[i])(self.x, index)

    def draw(self, key: Key[Array, ""]) -> Array:
        """One particle of each run, by weight: (runs, *event)."""
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
    """One population of `n` particles per key, from noise, in one compiled program.

    Args:
      keys: `(runs,)` keys, for example `keys(seed, runs)`.
      kernel: `SMC(move)`, or `ParticleGuidance(...)`, or a wrapper around them such as `Infill`.
      levels: as in `sample`; weights are only exact if the last level is clean.
      shape: the shape of one particle.
      n: particles per run, at least two.
      cond: what each run is conditioned on, leaves with leading axis `runs`, or None.

    Raises:
      Refused: a kernel of single samples, or what the kernel refuses; a run in which all weights were zero, with the
        level where it happened.
    """
    need("populations", kernel, Kernel, "the kernel")
    if not kernel.population:
        raise Refused(
            f"populations runs a kernel of a population, got {type(kernel).__name__}; write SMC(BestOf(kernel, "
            "reward)), or generate(...) for single samples"
        )
    keys, kernel, levels = prepare(keys, kernel, levels, (n, *shape), cond)
    return not_lost(n, *_populations(keys, kernel, levels, tuple(shape), n, jax.tree.map(jnp.asarray, cond)))


def not_lost(n: int, found: Particles, failed: Any) -> Particles:
    """`found`, unless all weights of a run were zero, where `failed` is a number: sigma / alpha."""
    if not isinstance(failed, jax.core.Tracer) and (lost := np.flatnonzero(~np.isnan(failed))).size:
        raise Refused(
            f"all {n} weights were zero in run {lost[0]}, first at sigma / alpha = {float(failed[lost[0]]):.4g}: no "
            "particle can explain the condition there; take more particles or a flatter likelihood"
        )
    return found
