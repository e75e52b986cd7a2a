"""Particle guidance (Corso et al. 2023, arXiv 2310.13102, eq. 4 and section 5): samples that keep away from each other.

    D_i' = D_i + scale (sigma^2 / alpha) grad_i log Phi,   log Phi = -1/2 sum_ij exp(-|x_i - x_j|^2 / h)

with h = median^2 / log n of the distances of the moment.
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import pytree
from guidance_jax.guidance.base import strength
from guidance_jax.kernels.reverse import Reverse, frozen
from guidance_jax.particles.smc import Population, fresh


def repulsion(x: Any) -> Any:
    """log Phi of a population (n, *event)."""
    flat = x.reshape(len(x), -1)
    square = jnp.sum((flat[:, None] - flat[None]) ** 2, -1)
    away = ~jnp.eye(len(x), dtype=bool)
    median = jnp.nanmedian(jnp.where(away, square, jnp.nan))
    width = jax.lax.stop_gradient(jnp.maximum(median / jnp.log(len(x)), 1e-12))
    return -0.5 * jnp.sum(jnp.where(away, jnp.exp(-square / width), 0))


@pytree
class ParticleGuidance:
    """A kernel for `populations`: diverse samples, not independent ones. scale 0 is independent sampling.

    What it samples is the joint law tilted by Phi, approximately; weights stay equal, the evidence 0. One call of the
    model per particle and step.

    Raises:
      ValueError: fewer than two particles.
    """

    model: Any
    solver: Any
    scale: Any

    def init(self, x):
        guide = jax.vmap(self.model.init)(x), jax.vmap(self.solver.init)(x)
        return fresh(x, guide)

    def check(self, levels, shape, cond):
        if shape[0] < 2:
            raise ValueError(f"ParticleGuidance needs at least two particles, got {shape[0]}; write n=16")
        Reverse(self.model, self.solver).check(levels, shape[1:], cond)

    def __call__(self, pop, t, s, cond, key):
        w = strength(self.scale, t, cond, off=0.0)
        push = w * t.sigma**2 / t.alpha * jax.grad(repulsion)(pop.x)

        def one(x, push, state, solver, key):
            first, second, third = jax.random.split(key, 3)
            pred, state = self.model(x, t, cond, state, first)
            pushed = pred.towards(pred.x0 + push, t)
            x, solver = self.solver.step(pushed, t, s, frozen(self.model, cond, state, third), solver, second)
            return x, (state, solver)

        x, guide = jax.vmap(one)(pop.x, push, *pop.guide, jax.random.split(key, len(pop.x)))
        return Population(x, guide, *pop[2:])
