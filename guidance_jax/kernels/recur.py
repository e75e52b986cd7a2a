"""Time travel: add noise again and repeat the step (RePaint, arXiv 2201.09865; FreeDoM; universal guidance; TFG)."""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import GaussianDiffusion, KernelWrapper, Level, Refused, normal, pytree, static
from guidance_jax.kernels.corrector import not_of_a_population


def renoise(key: Any, x: Any, s: Level, t: Level, factor: Any = 1.0) -> Any:
    """Draw from q(x_t | x_s): a x_s + factor sqrt(sigma_t^2 - a^2 sigma_s^2) z, with a = alpha_t / alpha_s."""
    a = t.alpha / s.alpha
    return a * x + factor * jnp.sqrt(jnp.maximum(t.sigma**2 - (a * s.sigma) ** 2, 0)) * normal(key, x)


@pytree
class Recur(KernelWrapper):
    """Make each step `repeats` times; before each repetition, noise takes the sample back to the level t.

    The cost is `repeats` times that of `inner`; repeats=1 is `inner` itself. Each repetition begins with the state that
    the guidance had before the step. The history of a multistep solver starts anew, since new noise means another
    trajectory.

    Attributes:
      inner: a kernel of images or vectors, not of populations.
      repeats: how often each step is made, 1 or more.

    Raises:
      Refused: `repeats` below 1; tokens; a population, whose weights would not account for the added noise.
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
            # the guidance keeps its state from before the step; to the solver, new noise is another trajectory
            begin = carry._replace(x=x, solver_state=self.inner.init(x).solver_state)
            return (begin, done), None

        # the last renoised sample is not used; in this way the kernel is compiled once
        (_, done), _ = jax.lax.scan(again, (carry, carry), jax.random.split(key, self.repeats))
        return done
