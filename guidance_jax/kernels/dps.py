"""Diffusion posterior sampling (Chung et al. 2022, arXiv 2209.14687, Algorithm 1) in its own units.

    x_s = solver(x_t) - scale grad_x |y - A x0(x_t)|

The norm is not squared, as in the authors' code, and is over one sample: taken over the batch, as is common, the step
shrinks with the batch.
"""

from collections.abc import Callable
from typing import Any

import jax

from guidance_jax.core import check, pytree, static
from guidance_jax.guidance.base import norm
from guidance_jax.guidance.gradient import scaled, through
from guidance_jax.kernels.reverse import Carry, Reverse, frozen
from guidance_jax.operators import as_operator, measured, whole


@pytree
class DPS:
    """A step of any solver, then a step of length `scale` against the residual. A may be any function, linear or not.

    One call of the denoiser beyond those of the solver's further stages, and one pull-back. scale 0 is `Reverse`. It
    does not sample the posterior, not even of a Gaussian: `MMPS` does there, `Twisted` elsewhere.
    """

    model: Any
    solver: Any
    operator: Any
    scale: Any = 1.0
    observed: Callable = static(default=whole)

    def __post_init__(self):
        object.__setattr__(self, "operator", as_operator(self.operator))

    def init(self, x):
        return Reverse(self.model, self.solver).init(x)

    def check(self, levels, shape, cond):
        check(self.operator, levels, shape, cond)
        Reverse(self.model, self.solver).check(levels, shape, cond)

    def __call__(self, carry, t, s, cond, key):
        first, second, third = jax.random.split(key, 3)
        pred, pull, guide = through(self.model, carry.x, t, cond, carry.guide, first)

        def residual(x0):
            return norm(measured(self.operator, x0, self.observed(cond)))

        shift = scaled(lambda: pull(jax.grad(residual)(pred.x0)), self.scale, t, cond, carry.x)
        x, solver = self.solver.step(pred, t, s, frozen(self.model, cond, guide, third), carry.solver, second)
        return Carry(x - shift, guide, solver)
