"""Particle guidance (Corso et al. 2023, arXiv 2310.13102, eq. 4 and section 5): samples that keep away from each other.

    D_i' = D_i + scale (sigma^2 / alpha) grad_i log Phi,   log Phi = -1/2 sum_ij exp(-|x_i - x_j|^2 / h)

with h = median^2 / log n, from the median distance of the current samples.
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import GaussianDiffusion, pytree
from guidance_jax.guidance.gradient import check_gradient
from guidance_jax.guidance.scales import strength, when
from guidance_jax.kernels.reverse import Step, evaluator
from guidance_jax.particles.smc import Population, PopulationKernel, equal_weights


def repulsion(x: Any) -> Any:
    """Return log Phi of a population (n, *event)."""
    flat = x.reshape(len(x), -1)
    square = jnp.sum((flat[:, None] - flat[None]) ** 2, -1)
    away = ~jnp.eye(len(x), dtype=bool)
    median = jnp.nanmedian(jnp.where(away, square, jnp.nan))
    width = jax.lax.stop_gradient(jnp.maximum(median / jnp.log(len(x)), 1e-12))
    return -0.5 * jnp.sum(jnp.where(away, jnp.exp(-square / width), 0))


@pytree
class ParticleGuidance(Step, PopulationKernel):
    """Draw diverse samples, which are not independent, by pushing particles apart: a kernel for `populations`.

    It samples the joint distribution times Phi, approximately. The weights stay equal and `log_evidence` stays 0. scale
    0 is independent sampling. One call of the model per particle and step.

    Attributes:
      model: any denoiser of images or vectors.
      solver: any solver of images or vectors.
      scale: the strength: a number, `Window`, or a function of the level.

    Raises:
      Refused: fewer than two particles; tokens.
    """

    model: Any
    solver: Any
    scale: Any

    takes = GaussianDiffusion

    def init(self, x):
        return equal_weights(x, (jax.vmap(self.model.init)(x), jax.vmap(self.solver.init)(x)))

    def check(self, levels, shape, cond):
        self.check_size(shape)
        super().check(levels, shape[1:], cond)
        check_gradient(self, levels, self.scale)

    def __call__(self, carry, t, s, cond, key):
        w = strength(self.scale, t, cond, off=0.0)
        push = when(
            w != 0, lambda: w * t.sigma**2 / t.alpha * jax.grad(repulsion)(carry.x), lambda: jnp.zeros_like(carry.x)
        )

        def one(x, push, state, solver, key):
            model_key, solver_key, evaluate_key = jax.random.split(key, 3)
            pred, state = self.model(x, t, cond, state, model_key)
            pushed = pred.towards(pred.x0 + push, t)
            x, solver = self.solver.step(
                pushed, t, s, evaluator(self.model, cond, state, evaluate_key), solver, solver_key
            )
            return x, (state, solver)

        x, state = jax.vmap(one)(carry.x, push, *carry.state, jax.random.split(key, len(carry.x)))
        return Population(x, state, *carry[2:])
