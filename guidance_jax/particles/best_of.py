"""Best-of-n: sample n times, keep what the reward likes best; its weights make it importance sampling."""

from typing import Any

import jax.numpy as jnp

from guidance_jax.core import check, function, pytree, real
from guidance_jax.guidance.gradient import scalar


@pytree
class BestOf:
    """A move for `SMC(move, threshold=0.0)`: n samples of any kernel, weighed by exp(scale reward) at the end alone.

    `populations(...).best()` is then best-of-n; `log_evidence` is log mean exp(scale reward).
    """

    kernel: Any
    reward: Any
    scale: Any = 1.0

    def __post_init__(self):
        object.__setattr__(self, "reward", function(self.reward))

    def check(self, levels, shape, cond):
        check(self.kernel, levels, shape, cond)

    def init(self, x):
        return self.kernel.init(x)

    def look(self, x, guide, t, cond, key):
        return guide, jnp.zeros((), real(x))

    def go(self, seen, t, s, cond, key):
        carry = self.kernel(seen, t, s, cond, key)
        return carry.x, carry, jnp.zeros((), real(carry.x))

    def finish(self, x, guide, level, cond, key):
        return self.scale * scalar(self.reward(x, level, cond), self.reward)
