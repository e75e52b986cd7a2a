"""Feynman-Kac steering (Singhal et al. 2025, arXiv 2501.06848, section 4): any reward, no gradient of it.

Particles move as they would, guided or not, and are resampled by potentials of the reward r of their clean estimates,
chosen so that their product is exp(scale r(x_0)):

    difference   exp(scale (r_t - r_before))
    maximum      exp(scale max r so far)
    total        exp(scale sum of r so far)
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import check, function, pytree, real, static
from guidance_jax.guidance.gradient import scalar
from guidance_jax.kernels.reverse import Reverse, frozen


def difference(reward: Any, memory: Any) -> tuple[Any, Any]:
    """(log-potential / scale, new memory, nan before the first step): the gain since the step before."""
    return reward - jnp.nan_to_num(memory), reward


def maximum(reward: Any, memory: Any) -> tuple[Any, Any]:
    """The best reward on the way; favours particles that were good at any time."""
    best = jnp.fmax(reward, memory)
    return best, best


def total(reward: Any, memory: Any) -> tuple[Any, Any]:
    """The sum of rewards on the way; favours particles that are good throughout."""
    so_far = reward + jnp.nan_to_num(memory)
    return so_far, so_far


@pytree
class Steered:
    """A move for `SMC`: the chain of `model` and `solver`, tilted to p(x) exp(scale reward(x)).

    `reward(x0, level, cond)` need not be differentiable. Any denoiser, guided ones included, and any solver. One reward
    per particle and step.

    Raises:
      ValueError: a reward that returns an array.
    """

    model: Any
    solver: Any
    reward: Any
    scale: Any = 1.0
    potential: Callable = static(default=difference)

    def __post_init__(self):
        object.__setattr__(self, "reward", function(self.reward))

    def check(self, levels, shape, cond):
        check(self.reward, levels, shape, cond)
        Reverse(self.model, self.solver).check(levels, shape, cond)

    def init(self, x):
        zero = jnp.zeros((), real(x))
        return self.model.init(x), self.solver.init(x), zero + jnp.nan, zero  # no reward yet, nothing paid

    def value(self, x0, level, cond):
        return scalar(self.reward(x0, level, cond), self.reward)

    def look(self, x, guide, t, cond, key):
        state, solver, memory, paid = guide
        pred, state = self.model(x, t, cond, state, key)
        gain, memory = self.potential(self.value(pred.x0, t, cond), memory)
        return (pred, (state, solver, memory, paid + gain)), self.scale * gain

    def go(self, seen, t, s, cond, key):
        pred, (state, solver, memory, paid) = seen
        evaluate = frozen(self.model, cond, state, jax.random.fold_in(key, 1))
        x, solver = self.solver.step(pred, t, s, evaluate, solver, key)
        return x, (state, solver, memory, paid), jnp.zeros((), real(x))

    def finish(self, x, guide, level, cond, key):
        return self.scale * (self.value(x, level, cond) - guide[3])
