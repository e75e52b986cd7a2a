"""Time travel: go back up and step down again (RePaint, arXiv 2201.09865; FreeDoM; universal guidance; TFG)."""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import GaussianDiffusion, KernelWrapper, Level, Refused, normal, pytree, static
from guidance_jax.kernels.corrector import not_of_a_population


def renoise(key: Any, x: Any, s: Level, t: Level, factor: Any = 1.0) -> Any:
    """A draw of q(x_t | x_s): a x_s + factor sqrt(sigma_t^2 - a^2 sigma_s^2) z, with a = alpha_t / alpha_s."""
    a = t.alpha / s.alpha
    return a * x + factor * jnp.sqrt(jnp.maximum(t.sigma**2 - (a * s.sigma) ** 2, 0)) * normal(key, x)


@pytree
class Recur(KernelWrapper):
    """`repeats - 1` times down and up again, then down: `repeats` times the cost; 1 is the kernel itself.

    Every way down begins with the guidance's memory of the step before; a solver's history ends where x goes back up,
    since the new noise is another trajectory.

    Attributes:
      inner: a kernel of images or vectors, not of populations.
      repeats: how often each step is made.

    Raises:
      Refused: fewer than one repeat; tokens; a population, whose weights would not know of the way up.
    """

    inner: Any
    repeats: int = static()

    takes = GaussianDiffusion

    def __post_init__(self):
        if self.repeats < 1:
            raise Refused(f"Recur repeats a step at least once, got repeats={self.repeats}; write Recur(kernel, 2)")

    def check(self, levels, shape, cond):
        super().check(levels, shape, cond)
        not_of_a_population(self)

    def __call__(self, carry, t, s, cond, key):
        if self.repeats == 1:
            return self.inner(carry, t, s, cond, key)

        def again(state, key):
            inner_key, noise_key = jax.random.split(key)
            begin, _ = state
            done = self.inner(begin, t, s, cond, inner_key)
            x = renoise(noise_key, done.x, s, t)
            # the guidance remembers what it did before the step; to the solver, new noise is another trajectory
            begin = carry._replace(x=x, solver_state=self.inner.init(x).solver_state)
            return (begin, done), None

        # the last way back up is thrown away: so the kernel is in the program once
        (_, done), _ = jax.lax.scan(again, (carry, carry), jax.random.split(key, self.repeats))
        return done
