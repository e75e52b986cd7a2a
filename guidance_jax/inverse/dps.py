"""Diffusion posterior sampling (Chung et al. 2022, arXiv 2209.14687, Algorithm 1) in its own units.

    x_s = solver(x_t) - scale grad_x |y - A x0(x_t)|

The norm is not squared, as in the authors' code, and is over one sample: taken over the batch, as is common, the step
shrinks with the batch.
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
    """A step of any solver, then a step of length `scale` against the residual.

    One call of the denoiser beyond those of the solver's further stages, and one pull-back. scale 0 is `Reverse`. It
    does not sample the posterior, not even of a Gaussian: `MMPS` does there, `Twisted` elsewhere.

    Attributes:
      model: a denoiser of images or vectors, usually unconditional.
      solver: any that takes them.
      operator: A, an `Operator` or any function of one sample, linear or not.
      scale: the length of the step, in units of x: a number, `Window`, or a function of the level.
      observed: which part of `cond` is the measurement y: a function of it, the name of an entry, or None for all.

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
        """What is made smaller: |y - A x0|."""
        return norm(residual_of(self.operator, x0, y))
