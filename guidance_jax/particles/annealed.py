"""Annealing by a Feynman-Kac corrector (Skreta et al. 2025, arXiv 2503.02819, Proposition 3.1): p(x)^beta.

With y = x / alpha, r = sigma / alpha and S the score in y, the diffusion with score beta S follows p_r^beta if every
particle gains, per decrease of r^2,

    beta (beta - 1) |S|^2 / 2

The integral over a step is by the trapezoid rule: exact in the limit of small steps.
"""

from typing import Any

import jax.numpy as jnp

from guidance_jax.core import check, normal, pytree
from guidance_jax.kernels.reverse import needs_variance


@pytree
class Annealed:
    """A move for `SMC`: the model at inverse temperature beta, its population samples p(x | cond)^beta.

    Starts at N(0, sigma^2 / beta); `log_evidence` is up to a constant. The weights vary with the number of dimensions:
    start where noise only just dominates.

    Raises:
      ValueError: a solver without a Gaussian kernel.
    """

    model: Any
    beta: Any
    solver: Any

    def start(self, key, levels, shape):
        sigma = jnp.asarray(levels.sigma[0])
        return self.beta**-0.5 * sigma * normal(key, jnp.zeros(shape, jnp.promote_types(sigma.dtype, jnp.float32)))

    def check(self, levels, shape, cond):
        needs_variance(self, self.solver)
        check(self.model, levels, shape, cond)

    def init(self, x):
        zero = jnp.zeros((), x.dtype)
        return self.model.init(x), zero, zero - 1

    def look(self, x, guide, t, cond, key):
        state, before, square = guide  # the rate at the level before, and its r^2; -1 at the start
        pred, state = self.model(x, t, cond, state, key)
        rate = self.beta * (self.beta - 1) / 2 * jnp.sum((pred.eps / t.ratio) ** 2)
        y = pred.x0 + t.ratio * pred.eps
        guided = pred.towards(y + self.beta * (pred.x0 - y), t)
        gain = jnp.where(square > 0, (before + rate) / 2 * (square - t.ratio**2), 0)
        return (guided, (state, rate, t.ratio**2)), gain

    def go(self, seen, t, s, cond, key):
        guided, guide = seen
        mean, std = self.solver.kernel(guided, t, s)
        return mean + jnp.where(s.sigma > 0, std, 0) * normal(key, mean), guide, jnp.zeros((), mean.dtype)

    def finish(self, x, guide, level, cond, key):
        _, rate, square = guide
        return rate * square  # to the clean level the rate stays what it was
