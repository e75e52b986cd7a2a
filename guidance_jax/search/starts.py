"""Search for the start: noise z from which a deterministic sampler, x = G(z), ends where the reward is high.

    p(z) exp(scale r(G(z))),   z ~ N(0, sigma^2) of the first level

`walk` draws z by Metropolis steps with preconditioned Crank-Nicolson proposals (Cotter et al. 2013, arXiv 1202.0709).
So x samples p(x) exp(scale r(x)), with p(x) the sampler's own. `climb` searches for the highest point by gradients
through all steps (D-Flow, Ben-Hamu et al. 2024, arXiv 2402.14017). It keeps |z| where noise lies (ReNO, Eyring et al.
2024, arXiv 2406.04312).
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
    """Starts for `generate(keys, kernel, levels, shape, cond, x=found.x)`, with the same keys as in the search.

    Attributes:
      x: the starts, (n, *event).
      value: (n, steps + 1), scale r(G(z)) along the search; the first is for the noise that `generate` starts from.
    """

    x: Array
    value: Float[Array, "n steps"]


@pytree
class Again(KernelWrapper):
    """Compute `inner` again in the backward pass, so that a gradient through the loop stores only the samples."""

    inner: Any

    def __call__(self, carry, t, s, cond, key):
        return jax.checkpoint(self.inner)(carry, t, s, cond, key)


def _begun(key, move, levels, shape, cond):
    """Return (the start of `generate`, the function that gives a start's value, a key)."""
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
            go = (there >= here) | (jnp.log(jax.random.uniform(accept_key)) < there - here)  # also -inf to -inf
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
        raise Refused(
            f"{name} searches over the starting noise, which {move.space.kind} do not have; use trees, or "
            "SMC(BestOf(...))"
        )
    if steps < 1:
        raise Refused(f"{name} needs at least one step, got steps={steps}")
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
    """Draw one start per key from p(z) exp(scale r(G(z))) by `steps` Metropolis steps; it costs `steps` + 1 samples.

    z' = sqrt(1 - size^2) z + size z_new,   accepted with probability min(1, exp(scale r(G(z')) - scale r(G(z))))

    The reward needs no gradient and may be -inf. The draws are exact in the limit of many steps, for a deterministic
    sampler. The draws of a random sampler are held fixed for each key. `size` 1 proposes independent starts. The share
    of steps at which `value` changes is the acceptance rate; a quarter is usual.

    Args:
      keys: `(n,)` keys.
      move: `BestOf(kernel, reward, scale)`, for images, vectors or flows.
      levels, shape, cond: as in `generate`.
      steps: the number of Metropolis steps.
      size: the size of a proposal, in (0, 1].

    Raises:
      Refused: a move other than `BestOf`; tokens or text; no step; a size outside (0, 1]; what the move refuses.
    """
    keys, move, *rest = _asked("walk", keys, move, levels, shape, cond, steps)
    if not 0 < size <= 1:
        raise Refused(f"the proposal size of walk must be in (0, 1], got {size}")
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
    """Find one start per key of high scale r(G(z)) + prior log p(|z|), by gradients through all steps of the sampler.

    log p(|z|) = (d - 1) log(|z| / sigma) - |z|^2 / (2 sigma^2),   d numbers in z

    It returns the best start on the way. That is a mode, not a sample: searches from different noise may end at the
    same one. A step costs the calls of three samples. Its memory holds x at all levels and one call of the network.

    Args:
      keys: `(n,)` keys.
      move: `BestOf(kernel, reward, scale)` with a differentiable reward, for images, vectors or flows.
      levels, shape, cond: as in `generate`.
      steps: the number of gradient steps.
      optimizer: an optimizer of optax. Use one object for many calls, since another is compiled anew.
      prior: the weight of log p(|z|) (ReNO); 0 for the reward alone (D-Flow).

    Raises:
      Refused: a move other than `BestOf`; tokens or text; no step; what the move refuses.
    """
    keys, move, *rest = _asked("climb", keys, move, levels, shape, cond, steps)
    return _climb(keys, move, *rest, steps, optimizer, jnp.float32(prior))
