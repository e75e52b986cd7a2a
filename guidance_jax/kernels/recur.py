"""Time travel: go back up and step down again (RePaint, arXiv 2201.09865; FreeDoM; universal guidance; TFG)."""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import Level, check, normal, pytree, static


def renoise(key: Any, x: Any, s: Level, t: Level) -> Any:
    """A draw of q(x_t | x_s): a x_s + sqrt(sigma_t^2 - a^2 sigma_s^2) z, with a = alpha_t / alpha_s."""
    a = t.alpha / s.alpha
    return a * x + jnp.sqrt(jnp.maximum(t.sigma**2 - (a * s.sigma) ** 2, 0)) * normal(key, x)


@pytree
class Recur:
    """`repeats - 1` times down and up again, then down: `repeats` times the cost; 1 is the kernel itself.

    Raises:
      ValueError: fewer than one repeat.
    """

    kernel: Any
    repeats: int = static(default=1)

    def __post_init__(self):
        if self.repeats < 1:
            raise ValueError(f"Recur repeats a step at least once, got repeats={self.repeats}; write Recur(kernel, 2)")

    def init(self, x):
        return self.kernel.init(x)

    def check(self, levels, shape, cond):
        check(self.kernel, levels, shape, cond)

    def __call__(self, carry, t, s, cond, key):
        if self.repeats == 1:
            return self.kernel(carry, t, s, cond, key)

        def again(carry, key):
            down, up = jax.random.split(key)
            carry = self.kernel(carry, t, s, cond, down)
            return carry._replace(x=renoise(up, carry.x, s, t)), carry.x

        # the last way back up is thrown away: so the kernel is in the program once
        carry, xs = jax.lax.scan(again, carry, jax.random.split(key, self.repeats))
        return carry._replace(x=xs[-1])
