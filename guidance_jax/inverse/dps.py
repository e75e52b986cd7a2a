"""Diffusion posterior sampling (Chung et al. 2022, arXiv 2209.14687, Algorithm 1) in the units of the paper.

    x_s = solver(x_t) - scale grad_x |y - A x0(x_t)|

As in the authors' code, the norm is not squared. It is the norm of one sample: if it is taken over the batch, as is
common, larger batches make smaller steps.
"""

from collections.abc import Callable
from typing import Any

import jax

from guidance_jax.core import GaussianDiffusion, Kernel, converted, norm, pytree, static
from guidance_jax.guidance.gradient import scale_gradient, through
from guidance_jax.kernels.reverse import Carry, Step, evaluator
from guidance_jax.models.adapters import known_part, part_of
from guidance_jax.operators.base import as_operator, check_measurement, check_operator, residual_of


@pytree
class DPS(Step, Kernel):
    """Take a step of any solver, then a gradient step, times `scale`, that makes the residual |y - A x0| smaller.

    Per step one call of the denoiser and one pull-back, besides the calls of the solver's further stages. scale 0 is
    `Reverse`. DPS does not sample the posterior, not even for Gaussian data: use `MMPS` there, and `Twisted` for
    others.

    Attributes:
      model: a denoiser of images or vectors, usually unconditional.
      solver: any solver of images or vectors.
      operator: A, an `Operator` or any function of one sample, linear or not.
      scale: the factor of the gradient, in units of x: a number, `Window`, or a function of the level.
      observed: which part of `cond` is the measurement y: a function of `cond`, the name of an entry, or None for all.

    Raises:
      Refused: tokens; samples that the operator does not take, a measurement of another shape than it gives.
    """

    model: Any
    solver: Any
    operator: Any = converted(as_operator)
    scale: Any = 1.0
    observed: Callable | str | None = static(default=None)

    takes = GaussianDiffusion

    def init(self, x):
        return Carry(x, self.model.init(x), self.solver.init(x))

    def check(self, levels, shape, cond):
        check_operator(self, self.operator, shape)
        check_measurement(self, known_part(cond, self.observed))
        super().check(levels, shape, cond)

    def __call__(self, carry, t, s, cond, key):
        model_key, solver_key, evaluate_key = jax.random.split(key, 3)
        pred, pull, state = through(self.model, carry.x, t, cond, carry.model_state, model_key)

        def gradient():
            return pull(jax.grad(self.length)(pred.x0, part_of(cond, self.observed)))

        shift = scale_gradient(gradient, self.scale, t, cond, carry.x)
        evaluate = evaluator(self.model, cond, state, evaluate_key)
        x, solver_state = self.solver.step(pred, t, s, evaluate, carry.solver_state, solver_key)
        return Carry(x - shift, state, solver_state)

    def length(self, x0: Any, y: Any) -> Any:
        """Return |y - A x0|, whose gradient is followed downwards."""
        return norm(residual_of(self.operator, x0, y))
