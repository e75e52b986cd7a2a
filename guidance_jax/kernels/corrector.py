"""Langevin corrector steps, and CFG as a predictor-corrector (Bradley & Nakkiran 2024, arXiv 2408.09000, Algorithm 2).

    x_s <- x_s + (v / 2) score(x_s) + sqrt(v) z,   v = step sigma_s^2 (1 - rho^2)

with v the variance that an ancestral step to s adds. Their theorem: CFG(w) with DDPM is, in the limit of small steps, a
DDIM predictor on the conditional model with one such step on CFG(2 w - 1).
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import check, normal, pytree, static
from guidance_jax.solvers.ddim import posterior_variance


@pytree
class Corrector:
    """`repeats` Langevin steps of `model` after each step of `kernel`, none at the clean level. step 0 is the kernel.

    `kernel` predicts, `model` corrects; with an exact model the corrector leaves its marginal as it is, up to O(step).
    `repeats` calls of the model a step; its state restarts every time.

    Raises:
      ValueError: fewer than one repeat.
    """

    kernel: Any
    model: Any
    step: Any = 1.0
    repeats: int = static(default=1)

    def __post_init__(self):
        if self.repeats < 1:
            raise ValueError(f"Corrector needs at least one step, got repeats={self.repeats}; write repeats=1")

    def init(self, x):
        return self.kernel.init(x)

    def check(self, levels, shape, cond):
        check(self.kernel, levels, shape, cond)
        check(self.model, levels, shape, cond)

    def __call__(self, carry, t, s, cond, key):
        first, rest = jax.random.split(key)
        carry = self.kernel(carry, t, s, cond, first)
        v = self.step * posterior_variance(t, s)

        def langevin(x, key):
            ask, draw = jax.random.split(key)
            pred, _ = self.model(x, s, cond, self.model.init(x), ask)
            return x - v / (2 * s.sigma) * pred.eps + jnp.sqrt(v) * normal(draw, x), None

        def correct():
            return jax.lax.scan(langevin, carry.x, jax.random.split(rest, self.repeats))[0]

        return carry._replace(x=jax.lax.cond(s.sigma > 0, correct, lambda: carry.x))
