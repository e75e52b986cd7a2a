"""Ensemble Kalman guidance, EnKG (Zheng et al. 2024, arXiv 2409.20175, Algorithm 1): a population instead of gradients.

    x_i <- x_i - scale / |C| sum_j C_ij (x_j - mean x),   C_ij = (1 / N) (y_i - y).(y_j - mean y)

N is the number of particles, y_i is A of the end of the ODE from x_i, and |C| the Frobenius norm. A step of the solver
follows.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import GaussianDiffusion, check_signal, converted, norm, pytree, quotient, static
from guidance_jax.guidance.scales import strength
from guidance_jax.kernels.descend import check_descent, descend
from guidance_jax.kernels.reverse import Step, evaluator
from guidance_jax.models.adapters import known_part, part_of
from guidance_jax.operators.base import as_operator, check_measurement, check_operator, residual_of
from guidance_jax.particles.smc import Population, PopulationKernel, equal_weights
from guidance_jax.schedules import Schedule
from guidance_jax.solvers.ddim import DDIM


@pytree
class EnKG(Step, PopulationKernel):
    """Move particles towards the measurement of a black box A, along their differences. A kernel for `populations`.

    Per particle and step, `steps` + 1 calls of the model and no gradient of model or operator. The guidance moves
    particles only within the span of their differences. It does not sample the posterior. The weights stay equal and
    `log_evidence` stays 0. scale 0 is independent sampling.

    Attributes:
      model: a denoiser of images or vectors, usually unconditional.
      solver: any solver of images or vectors.
      operator: A, an `Operator` or any function of one sample; it need not be differentiable.
      schedule: the schedule of the levels.
      scale: the strength, `scale` in the formula: a number, `Window`, or a function of the level.
      steps: the number of Euler steps of the ODE to the clean sample.
      observed: which part of `cond` is the measurement y: a function of `cond`, the name of an entry, or None for all.

    Raises:
      Refused: fewer than two particles; tokens; a measurement that does not fit; levels on another schedule.
    """

    model: Any
    solver: Any
    operator: Any = converted(as_operator)
    schedule: Schedule = static()
    scale: Any = 1.0
    steps: int = static(default=4)
    observed: Callable | str | None = static(default=None)

    takes = GaussianDiffusion

    def init(self, x):
        return equal_weights(x, (jax.vmap(self.model.init)(x), jax.vmap(self.solver.init)(x)))

    def check(self, levels, shape, cond):
        self.check_size(shape)
        super().check(levels, shape[1:], cond)
        check_operator(self, self.operator, shape[1:])
        check_measurement(self, known_part(cond, self.observed))
        check_descent(self, levels)
        check_signal(levels, "EnKG")

    def __call__(self, carry, t, s, cond, key):
        n = len(carry.x)
        y, w = part_of(cond, self.observed), strength(self.scale, t, cond, off=0.0)
        states, histories = carry.state
        end_key, step_key = jax.random.split(key)

        def end(x, state, key):
            x0 = descend(self.model, DDIM(), self.schedule, self.steps, x, t, cond, state, key)
            return residual_of(self.operator, x0, y).ravel()

        misfit = -jax.vmap(end)(carry.x, states, jax.random.split(end_key, n))  # y_i - y
        with jax.default_matmul_precision("highest"):
            c = misfit @ (misfit - jnp.mean(misfit, 0)).T / n
            away = (carry.x - jnp.mean(carry.x, 0)).reshape(n, -1)
            push = quotient(w * (c @ away), norm(c)).reshape(carry.x.shape)

        def one(x, state, history, key):
            model_key, solver_key, evaluate_key = jax.random.split(key, 3)
            pred, state = self.model(x, t, cond, state, model_key)
            evaluate = evaluator(self.model, cond, state, evaluate_key)
            x, history = self.solver.step(pred, t, s, evaluate, history, solver_key)
            return x, (state, history)

        x, state = jax.vmap(one)(carry.x - push, states, histories, jax.random.split(step_key, n))
        return Population(x, state, *carry[2:])
