"""Feynman-Kac steering (Singhal et al. 2025, arXiv 2501.06848, section 4): any reward, no gradient of it.

Particles move by model and solver, guided or not. They are resampled by potentials of the reward r of their clean
estimates; the last potential makes the product exp(scale r(x_0)):

    difference   exp(scale (r_t - r_before))
    maximum      exp(scale max r so far)
    total        exp(scale sum of r so far)
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import Guide, Move, Stochastic, as_guide, converted, float_type, need, pytree, static
from guidance_jax.guidance.scales import check_constant, strength
from guidance_jax.kernels.reverse import Step, evaluator
from guidance_jax.particles.smc import Followable


def difference(reward: Any, memory: Any) -> tuple[Any, Any]:
    """Return (log-potential / scale, new memory): the gain of `reward` over `memory`, the last one (NaN at first)."""
    return reward - jnp.nan_to_num(memory), reward


def maximum(reward: Any, memory: Any) -> tuple[Any, Any]:
    """Return (log-potential / scale, new memory), both the best of `reward` and `memory`, the best one so far.

    It favours particles that were good at any time.

    >>> [float(best) for best in maximum(1.0, 2.0)]
    [2.0, 2.0]
    """
    best = jnp.where(jnp.isnan(memory), reward, jnp.maximum(reward, memory))
    return best, best


def total(reward: Any, memory: Any) -> tuple[Any, Any]:
    """Return (log-potential / scale, new memory), both `reward` plus `memory`, the sum so far.

    It favours particles that are good throughout.

    >>> [float(a) for a in total(1.5, jnp.asarray(2.0))]
    [3.5, 3.5]
    """
    so_far = reward + jnp.nan_to_num(memory)
    return so_far, so_far


@pytree
class Steered(Followable, Step, Move):
    """Tilt the chain of `model` and `solver` to p(x) exp(scale reward(x)): a move for `SMC`.

    The reward is computed once per particle and step, at the clean estimate; it need not be differentiable.

    Attributes:
      model: any denoiser, guided ones included.
      solver: any solver that takes its samples.
      reward: a `Guide` of clean samples, or f(x0, level, cond) -> scalar.
      scale: the factor of the reward: a number, `PerSample` or `PerClass`.
      noisy: whether the reward is a value of noisy samples, such as `Lookahead`, and is evaluated at x_t.
      path: the potentials on the way: `difference`, `maximum` or `total`, from `guidance_jax.particles`.

    Raises:
      Refused: a reward that returns an array; a scale that changes from level to level.
    """

    model: Any
    solver: Any
    reward: Any = converted(as_guide)
    scale: Any = 1.0
    path: Callable = static(default=difference)
    noisy: bool = static(default=False)

    def check(self, levels, shape, cond):
        need(self, self.reward, Guide, "the reward")
        check_constant(self)
        self.reward.check(levels, shape, cond)
        super().check(levels, shape, cond)

    def init(self, x):
        zero = jnp.zeros((), float_type(x))
        return self.model.init(x), self.solver.init(x), zero + jnp.nan, zero  # no reward yet, nothing paid

    def potential(self, x, state, t, cond, key):
        own, solver_state, memory, paid = state
        pred, own = self.model(x, t, cond, own, key)
        gain, memory = self.path(self.reward.value(x if self.noisy else pred.x0, t, cond), memory)
        return (pred, (own, solver_state, memory, paid + gain)), strength(self.scale, t, cond, off=0.0) * gain

    def propose(self, found, t, s, cond, key):
        pred, (own, solver_state, memory, paid) = found
        evaluate = evaluator(self.model, cond, own, jax.random.fold_in(key, 1))
        x, solver_state = self.solver.step(pred, t, s, evaluate, solver_state, key)
        return x, (own, solver_state, memory, paid), jnp.zeros((), float_type(x))

    @property
    def followable(self):
        return isinstance(self.solver, Stochastic) and not self.solver.deterministic

    def follow(self, found, x, t, s, cond):
        pred, state = found
        paid = strength(self.scale, t, cond, off=0.0) * state[3]
        return state, jnp.zeros((), float_type(x)), self.solver.transition(pred, t, s).log_prob(x) - paid

    def final_potential(self, x, state, level, cond, key):
        return strength(self.scale, level, cond, off=0.0) * (self.reward.value(x, level, cond) - state[3])
