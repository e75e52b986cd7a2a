"""Exact weights for any guided flow: its own density is known, so its samples can be weighed for any other density.

log q(x) = log N(z; 0, I) - sum of all a' of the guided steps,   w = target(x) / q(x)
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax._typing import Array
from guidance_jax.core import Level, Refused, converted, function, pytree, rows
from guidance_jax.flows.solvers import PatchByPatch
from guidance_jax.kernels.reverse import Reverse
from guidance_jax.particles.populations import Particles
from guidance_jax.sample import prepare, sample


@pytree
class _Target:
    log_density: Any = converted(function)


@partial(jax.jit, static_argnames=("shape", "n"))
def _importance(keys, kernel, levels, shape, n, cond, target):
    def one(key, kernel, cond):
        start_key, step_key = jax.random.split(key)
        z = kernel.start(start_key, levels, shape)
        carry = sample(step_key, kernel, levels, z, cond)
        log_q = -0.5 * jnp.sum(z**2) - 0.5 * z.size * jnp.log(2 * jnp.pi) - carry.solver_state
        return carry.x, target.log_density(carry.x, cond) - log_q

    def run(key, kernel, cond):
        x, log_w = jax.vmap(one, (0, None, None))(jax.random.split(key, n), kernel, cond)
        lost = ~(log_w < jnp.inf)  # NaN too
        log_w = jnp.where(lost, -jnp.inf, log_w)
        log_evidence = jax.nn.logsumexp(log_w) - jnp.log(n)
        share = jax.nn.softmax(log_w)
        return Particles(x, log_w - log_evidence, log_evidence, 1 / jnp.sum(share**2)[None], jnp.sum(lost))

    return jax.vmap(run, in_axes=(0, rows(kernel), 0))(keys, kernel, cond)


def importance(
    keys: Array,
    kernel: Any,
    levels: Level,
    shape: tuple[int, ...],
    n: int,
    cond: Any = None,
    *,
    log_target: Callable,
) -> Particles:
    """Draw `n` samples of a guided flow per key and weigh them by the density that they should have.

        p(x)^(1 - s) p(x | y)^s     log_target = (1 - s) flow.log_prob(x, null) + s flow.log_prob(x, y)
        p(x) p(y | x)^s             log_target = flow.log_prob(x, null) + s times a classifier's log p(y | x)

    As n grows this is exact for any guidance, scale and number of blocks. The variance of the weights grows with the
    number of dimensions.

    Args:
      keys: `(runs,)` keys.
      kernel: `Reverse(model, PatchByPatch())` of a flow, guided or not.
      levels: `patch_levels(T, blocks)`.
      shape: (T, C).
      n: the number of samples per run.
      cond: one condition per key, or None.
      log_target: f(x, cond) -> the target's log-density, in nats, up to a constant. Define the function once and reuse
        it, since a new one compiles again.

    Returns:
      `Particles`: `log_evidence` is the log of an unbiased estimate of the integral of exp(log_target).

    Raises:
      Refused: another kernel; what the flow refuses.
    """
    if not (isinstance(kernel, Reverse) and isinstance(kernel.solver, PatchByPatch)):
        raise Refused(f"importance needs Reverse(model, PatchByPatch()), got {type(kernel).__name__}")
    keys, kernel, levels = prepare(keys, kernel, levels, shape, cond)
    cond = jax.tree.map(jnp.asarray, cond)
    return _importance(keys, kernel, levels, tuple(shape), n, cond, _Target(log_target))
