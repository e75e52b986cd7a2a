"""Search for the start: noise z from which a sampler without chance, x = G(z), ends where the reward is high.

    p(z) exp(scale r(G(z))),   z ~ N(0, sigma^2) of the first level

`walk` samples it by Metropolis steps of preconditioned Crank-Nicolson proposals (Cotter et al. 2013, arXiv 1202.0709),
so that x samples the sampler's own p(x) tilted by exp(scale r(x)). `climb` seeks its highest point by gradients through
all steps (D-Flow, Ben-Hamu et al. 2024, arXiv 2402.14017), |z| held where noise is (ReNO, Eyring et al. 2024, arXiv
2406.04312).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from guidance_jax._typing import Array, Float
from guidance_jax.core import KernelWrapper, Level, Refused, pytree, rows
from guidance_jax.sample import sample
from guidance_jax.search.asked import check_search

ADAM = optax.adam(0.1)


class Starts(NamedTuple):
    """Starts for `generate(keys, kernel, levels, shape, cond, x=found.x)`, with the keys that they were found by.

    Attributes:
      x: (n, *event).
      value: (n, steps + 1), scale r(G(z)) where the search was, the first of the noise that `generate` starts from.
    """

    x: Array
    value: Float[Array, "n steps"]


@pytree
class Again(KernelWrapper):
    """`inner`, computed again in the backward pass: a gradient through the loop keeps the samples alone."""

    inner: Any

    def __call__(self, carry, t, s, cond, key):
        return jax.checkpoint(self.inner)(carry, t, s, cond, key)


def _begun(key, move, levels, shape, cond):
    """(where `generate` starts, the value of a start, a key)."""
    start_key, step_key, reward_key = jax.random.split(key, 3)  # the first two are those of `generate`
    kernel = Again(move.kernel)

    def value(z):
        found = move.final_potential(sample(step_key, kernel, levels, z, cond).x, (), levels.at(-1), cond, reward_key)
        return jnp.where(jnp.isnan(found), -jnp.inf, found)

    return move.kernel.start(start_key, levels, shape), value, reward_key


@partial(jax.jit, static_argnames=("shape", "steps"))
def _walk(keys, move, levels, shape, cond, steps, size):
    def one(key, move, cond):
        z, value, key = _begun(key, move, levels, shape, cond)

        def step(carry, key):
            z, here = carry
            proposal_key, accept_key = jax.random.split(key)
            other = jnp.sqrt(1 - size**2) * z + size * move.kernel.start(proposal_key, levels, shape)
            there = value(other)
            go = (there >= here) | (jnp.log(jax.random.uniform(accept_key)) < there - here)  # -inf to -inf goes
            z, here = jnp.where(go, other, z), jnp.where(go, there, here)
            return (z, here), here

        begin = value(z)
        (z, _), found = jax.lax.scan(step, (z, begin), jax.random.split(key, steps))
        return Starts(z, jnp.append(begin, found))

    return jax.vmap(one, in_axes=(0, rows(move), 0))(keys, move, cond)


@partial(jax.jit, static_argnames=("shape", "steps", "optimizer"))
def _climb(keys, move, levels, shape, cond, steps, optimizer, prior):
    def one(key, move, cond):
        z, value, _ = _begun(key, move, levels, shape, cond)

        def height(z):
            found, square = value(z), jnp.sum((z / move.space.start_std(levels)) ** 2)
            return found + prior * (0.5 * (z.size - 1) * jnp.log(square) - 0.5 * square), found

        def step(carry, _):
            z, inner, best, highest = carry
            (here, found), slope = jax.value_and_grad(height, has_aux=True)(z)
            best, highest = jnp.where(here > highest, z, best), jnp.maximum(here, highest)
            update, inner = optimizer.update(-slope, inner, z)
            return (optax.apply_updates(z, update), inner, best, highest), found

        (z, _, best, highest), found = jax.lax.scan(step, (z, optimizer.init(z), z, -jnp.inf), None, length=steps)
        here, last = height(z)
        return Starts(jnp.where(here > highest, z, best), jnp.append(found, last))

    return jax.vmap(one, in_axes=(0, rows(move), 0))(keys, move, cond)


def _asked(name, keys, move, levels, shape, cond, steps):
    keys, move, *rest = check_search(name, keys, move, levels, shape, cond)
    if move.space.start_std(levels) is None:
        raise Refused(f"{name} moves noise, and {move.space.kind} start from none; use trees, or SMC(BestOf(...))")
    if steps < 1:
        raise Refused(f"{name} takes one step or more, got steps={steps}")
    return keys, move, *rest


def walk(
    keys: Array,
    move: Any,
    levels: Level,
    shape: tuple[int, ...],
    cond: Any = None,
    *,
    steps: int = 50,
    size: float = 0.3,
) -> Starts:
    """One start per key from p(z) exp(scale r(G(z))), after `steps` Metropolis steps: `steps` + 1 samples' calls.

    z' = sqrt(1 - size^2) z + size z_new,   accepted with probability min(1, exp(scale r(G(z')) - scale r(G(z))))

    No gradient of the reward, which may be -inf. Exact in the limit, and for samplers without chance; the draws of one
    with chance are held fixed for each key. `size` 1 proposes independent starts. The share of `value` that changes
    from step to step is the acceptance: a quarter is usual.

    Args:
      keys: `(n,)` keys.
      move: `BestOf(kernel, reward, scale)`; of images, vectors or flows.
      levels, shape, cond: as in `generate`.
      steps: how many.
      size: of a proposal, in (0, 1].

    Raises:
      Refused: another move, tokens or text, no step, a size outside (0, 1], or what the move refuses.
    """
    keys, move, *rest = _asked("walk", keys, move, levels, shape, cond, steps)
    if not 0 < size <= 1:
        raise Refused(f"walk proposes with a size in (0, 1], got {size}")
    return _walk(keys, move, *rest, steps, jnp.float32(size))


def climb(
    keys: Array,
    move: Any,
    levels: Level,
    shape: tuple[int, ...],
    cond: Any = None,
    *,
    steps: int = 20,
    optimizer: optax.GradientTransformation = ADAM,
    prior: float = 1.0,
) -> Starts:
    """One start per key of high scale r(G(z)) + prior log p(|z|), by gradients through all steps; the best on the way.

    log p(|z|) = (d - 1) log(|z| / sigma) - |z|^2 / (2 sigma^2),   d numbers in z

    A mode, no sample: starts from different noise may end at one. A step costs three samples' calls, and the memory of
    all levels' x and of one call.

    Args:
      keys: `(n,)` keys.
      move: `BestOf(kernel, reward, scale)`, its reward differentiable; of images, vectors or flows.
      levels, shape, cond: as in `generate`.
      steps: how many.
      optimizer: from optax; one object for many calls, since another is compiled anew.
      prior: of the length of z (ReNO); 0 for the reward alone (D-Flow).

    Raises:
      Refused: another move, tokens or text, no step, or what the move refuses.
    """
    keys, move, *rest = _asked("climb", keys, move, levels, shape, cond, steps)
    return _climb(keys, move, *rest, steps, optimizer, jnp.float32(prior))
