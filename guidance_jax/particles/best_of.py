"""Best-of-n: draw n samples and keep the one with the highest reward. With weights it is importance sampling."""

from typing import Any

import jax.numpy as jnp

from guidance_jax.core import Guide, Kernel, Move, Refused, as_guide, converted, float_type, is_sound, need, pytree
from guidance_jax.guidance.scales import check_constant, strength


@pytree
class BestOf(Move):
    """Weigh samples of any kernel by exp(scale reward), only at the end: a move for `SMC(move, threshold=0.0)`.

    `populations(...).best()` is then best-of-n, and `log_evidence` is log mean exp(scale reward). The reward is
    computed once per particle.

    Attributes:
      kernel: the kernel that makes one sample, in any space; not a kernel of populations.
      reward: a `Guide` of clean samples, or f(x, level, cond) -> scalar; it need not be differentiable.
      scale: the factor of the reward: a number, `PerSample` or `PerClass`.

    Raises:
      Refused: a kernel of populations; a reward that returns an array; a scale that changes from level to level.
    """

    kernel: Any
    reward: Any = converted(as_guide)
    scale: Any = 1.0

    @property
    def space(self):
        return self.kernel.space

    @property
    def overwritable(self):
        return self.kernel.overwritable

    def start(self, key, levels, shape):
        return self.kernel.start(key, levels, shape)

    def check(self, levels, shape, cond):
        need(self, self.kernel, Kernel, "the first argument")
        need(self, self.reward, Guide, "the reward")
        check_constant(self)
        if self.kernel.population:
            raise Refused("BestOf needs a kernel for single samples, got one for a population; write SMC(move) alone")
        self.reward.check(levels, shape, cond)
        self.kernel.check(levels, shape, cond)

    def init(self, x):
        return self.kernel.init(x)

    def potential(self, x, state, t, cond, key):
        return state._replace(x=x), jnp.zeros((), float_type(x))

    def propose(self, found, t, s, cond, key):
        carry = self.kernel(found, t, s, cond, key)
        return carry.x, carry, jnp.zeros((), float_type(carry.x))

    def final_potential(self, x, state, level, cond, key):
        reward = strength(self.scale, level, cond, off=0.0) * self.reward.value(x, level, cond)
        return jnp.where(is_sound(x), reward, jnp.nan)  # a failed sample has no reward, whatever the guide returns
