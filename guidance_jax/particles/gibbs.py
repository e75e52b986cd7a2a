"""Particle Gibbs: sequential Monte Carlo around a kept sample (Andrieu et al. 2010, JRSS B 72; PG-DLM, 2507.08390).

In each sweep one particle is held on the path of the last sample, and resampling never drops it. The next sample is
drawn by the final weights. The target is invariant for any number of particles from two on, whereas a single SMC run
needs many. Mixing can still be slow: if resampling is frequent, the beginning of the kept path hardly changes. With few
particles and many steps, draw new ancestors (Lindsten et al. 2014, JMLR 15). Whenever the others are resampled, the
kept path x' then continues from particle i with probability proportional to

    w_i p(x'_s | x_i) / (the potentials that i has paid)

Another way is to leave out resampling, `SMC(move, threshold=0.0)`.

Without new ancestors the path is not stored: it is computed again from its start and its keys.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from guidance_jax._typing import Array, Key
from guidance_jax.core import GaussianDiffusion, Level, Refused, is_sound, need, rows
from guidance_jax.particles.smc import SMC, Followable, equal_weights
from guidance_jax.sample import prepare


class Path(NamedTuple):
    """The start and the keys that determine a sample, from which it can be computed again.

    Attributes:
      start: (*event), the noise it starts from.
      potential_keys, propose_keys: (steps,), the keys of its steps.
      x: (steps, *event), the sample after each step if ancestors are drawn; otherwise ().
    """

    start: Any
    potential_keys: Any
    propose_keys: Any
    x: Any


@partial(jax.jit, static_argnames=("shape", "n", "sweeps", "ancestors"))
def _gibbs(keys, kernel, levels, shape, n, sweeps, ancestors, cond):
    steps = len(levels.sigma) - 1
    move = kernel.move

    def run(key, path, held, cond):
        """Run one sweep, with the last particle on `path` if `held`. Return (clean sample, its path, failed level)."""
        start_key, step_key, final_key, choice_key = jax.random.split(key, 4)
        x = move.start(start_key, levels, (n, *shape))
        x = x.at[-1].set(jnp.where(held, path.start, x[-1]))
        start = x

        def keep(keys, own):
            return jnp.where(held, keys.at[-1].set(own), keys)

        def step(pop, inputs):
            i, key, potential_own, propose_own, x_own = inputs
            t, s = levels.at(i), levels.at(i + 1)
            potential_key, resample_key, propose_key = jax.random.split(key, 3)
            potential_keys = keep(jax.random.split(potential_key, n), potential_own)
            propose_keys = keep(jax.random.split(propose_key, n), propose_own)
            found, gain = jax.vmap(lambda x, state, k: move.potential(x, state, t, cond, k))(
                pop.x, pop.state, potential_keys
            )
            pop = kernel.weigh(pop, gain, t)

            def ancestor():
                """Draw the ancestor of the kept path; it is its own where the step has no noise."""
                link = jax.vmap(lambda one: move.follow(one, x_own, t, s, cond)[2])(found)
                total = pop.log_w + link  # NaN or +inf: this particle cannot lead there
                total = jnp.where(total < jnp.inf, total, -jnp.inf)
                drawn = jax.random.categorical(jax.random.fold_in(resample_key, 1), total)
                return jnp.where((s.sigma == 0) & isinstance(move.space, GaussianDiffusion), n - 1, drawn)

            def choose():
                index = jax.random.categorical(resample_key, pop.log_w, shape=(n,)).astype(jnp.int32)
                own = ancestor().astype(jnp.int32) if ancestors else n - 1
                return jnp.where(held, index.at[-1].set(own), index), jnp.zeros_like(pop.log_w)

            stay = jnp.arange(n, dtype=jnp.int32)
            index, log_w = jax.lax.cond(pop.ess < kernel.threshold * n, choose, lambda: (stay, pop.log_w))
            found = jax.tree.map(lambda a: a[index], found)
            moved = jax.vmap(lambda one, k: move.propose(one, t, s, cond, k))(found, propose_keys)
            if ancestors:
                kept = x_own, *move.follow(jax.tree.map(lambda a: a[-1], found), x_own, t, s, cond)[:2]
                moved = jax.tree.map(lambda a, b: a.at[-1].set(jnp.where(held, b, a[-1])), moved, kept)
            x, state, gain = moved
            gain = jnp.where(jax.vmap(is_sound)(x), gain, jnp.nan)
            pop = kernel.weigh(pop._replace(x=x, state=state, log_w=log_w), gain, s)
            return pop, (index, potential_keys, propose_keys, x if ancestors else ())

        pop = equal_weights(x, jax.vmap(move.init)(x))
        pop, (index, *made) = jax.lax.scan(step, pop, (jnp.arange(steps), jax.random.split(step_key, steps), *path[1:]))
        pop = kernel.finish(pop, levels.at(-1), cond, final_key)
        chosen = jax.random.categorical(choice_key, pop.log_w)

        def back(slot, inputs):
            index, potential_keys, propose_keys, x = inputs
            before = index[slot]
            return before, (potential_keys[before], propose_keys[slot], x[slot] if ancestors else ())

        first, own = jax.lax.scan(back, chosen, (index, *made), reverse=True)
        return pop.x[chosen], Path(start[first], *own), pop.failed

    def one(key, cond):
        blank = jax.random.split(key, steps)
        start = jnp.zeros_like(move.start(key, levels, shape))
        path = Path(start, blank, blank, jnp.zeros((steps, *start.shape), start.dtype) if ancestors else ())

        def sweep(path, inputs):
            i, key = inputs
            x, path, failed = run(key, path, i > 0, cond)
            return path, (kernel.space.mark_unfinished(x), failed)

        return jax.lax.scan(sweep, path, (jnp.arange(sweeps), jax.random.split(key, sweeps)))[1]

    return jax.vmap(one, in_axes=(0, 0))(keys, cond)


def check_followable(move: Any, shape: tuple[int, ...]) -> None:
    """Raise `Refused` unless the next step of `move` depends on x alone and has a density."""
    if not (isinstance(move, Followable) and move.followable):
        raise Refused(
            f"ancestors=True needs the density of a step, which {type(move).__name__} does not have here; use Twisted, "
            "Corrected or Steered with DDPM(), DDIM(1.0) or Ancestral()"
        )
    if jax.tree.leaves(move.model.init(jnp.zeros(shape))):
        raise Refused("ancestors=True needs a model whose next step depends on x alone, got one with a state")


def particle_gibbs(
    keys: Key[Array, " runs"],
    kernel: SMC,
    levels: Level,
    shape: tuple[int, ...],
    n: int,
    sweeps: int,
    cond: Any = None,
    ancestors: bool = False,
) -> Array:
    """Draw one Markov chain of samples per key, (runs, sweeps, *event).

    The first sample is a draw of plain SMC; the distribution of later ones tends to the target.

    Args:
      keys: `(runs,)` keys, for example `keys(seed, runs)`.
      kernel: `SMC(move)`. Its `threshold` is used, but resampling is always multinomial here.
      levels, shape, cond: as in `populations`.
      n: the number of particles per sweep, at least two; one of them is the last sample.
      sweeps: the number of sweeps; each costs as much as `populations`.
      ancestors: whether the kept path may continue from another particle. This mixes faster, but stores all states of a
        sweep. The move has to be `Twisted`, `Corrected` or `Steered`, and its model must have no state.

    Raises:
      Refused: a kernel other than `SMC`, with `Beam`, or with `PerSample`; what the kernel refuses; no sweep; a run in
        which all weights were zero; `ancestors` with a move whose steps have no density.

    >>> import guidance_jax as gj
    >>> model = gj.GaussianMixture(jnp.array([[1.0], [-1.0]]), 0.3, jnp.array([0.5, 0.5]))
    >>> move = gj.Steered(model, gj.DDIM(1.0), lambda x0, level, cond: x0[0])
    >>> gj.particles.particle_gibbs(gj.keys(0, 3), gj.SMC(move), gj.Cosine().levels(5), (1,), n=2, sweeps=4).shape
    (3, 4, 1)
    """
    need("particle_gibbs", kernel, SMC, "the kernel")
    if kernel.searches:
        raise Refused("particle_gibbs needs random resampling, got Beam; write SMC(move)")
    if sweeps < 1:
        raise Refused(f"particle_gibbs needs at least one sweep, got {sweeps}; write sweeps=10")
    keys, ready, levels = prepare(keys, kernel, levels, (n, *shape), cond)
    if jax.tree.leaves(rows(ready)):
        raise Refused("particle_gibbs needs one kernel for all runs; remove PerSample")
    if ancestors:
        check_followable(kernel.move, shape)
    found, failed = _gibbs(keys, ready, levels, tuple(shape), n, sweeps, ancestors, jax.tree.map(jnp.asarray, cond))
    if not isinstance(failed, jax.core.Tracer) and not bool(jnp.isnan(failed).all()):
        raise Refused(f"all {n} weights were zero in a sweep; use more particles or a flatter reward")
    return found
