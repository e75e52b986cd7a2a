"""Guidance by a linear measurement y = A x0 + std z, with p(x0 | x_t) taken as a Gaussian around the clean estimate.

    x0' = x0 + scale (sigma^2 / alpha) J^T A^T v,   (std^2 I + A C A^T) v = y - A x0

The methods differ in C, the covariance of the clean sample given x_t. `PiGDM` takes r^2 I, `TMPD` the row sums of the
Jacobian J, `MMPS` the Jacobian itself. The last is exact, by Tweedie's second formula: Cov[x0 | x_t] = (sigma^2 /
alpha) J.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from guidance_jax.core import converted, pytree, static
from guidance_jax.guidance.gradient import GradientGuidance, through
from guidance_jax.models.adapters import known_part, part_of
from guidance_jax.operators.base import as_operator, check_measurement, check_operator, residual_of


@pytree
class Inverse(GradientGuidance):
    """Base class of guidance by a linear measurement; a subclass gives `solve`.

    Each step costs one call of the denoiser, one pull-back, and what `solve` needs. The guided prediction still
    satisfies alpha x0 + sigma eps = x; scale 0 is `inner`.

    Attributes:
      inner: the denoiser, usually unconditional; `Conditioned(model, ...)` if `cond` holds a label too.
      operator: A, linear, from `guidance_jax.operators` or any function of one sample.
      std: the standard deviation of the measurement noise: one number, or one for each measurement.
      scale: the strength: a number, `Window`, or a function of the level; 1 aims at the posterior.
      observed: which part of `cond` is the measurement y: a function of `cond`, the name of an entry, or None for all.

    Raises:
      Refused: samples that the operator does not take; a measurement of another shape than it gives, or with numbers
        that are not finite; a std that is not positive.
    """

    inner: Any
    operator: Any = converted(as_operator)
    std: Any
    scale: Any = 1.0
    observed: Callable | str | None = static(default=None)

    def check(self, levels, shape, cond):
        check_operator(self, self.operator, shape, linear=True)
        check_measurement(self, known_part(cond, self.observed), self.std)
        super().check(levels, shape, cond)

    @property
    def variance(self) -> Any:
        """std^2, NaN where std is not positive."""
        return jnp.where(jnp.asarray(self.std) > 0, self.std, jnp.nan) ** 2

    def predict_and_gradient(self, x, level, cond, state, key):
        pred, pull, state = through(self.inner, x, level, cond, state, key)
        residual = residual_of(self.operator, pred.x0, part_of(cond, self.observed))

        def gradient():
            v = self.solve(residual, lambda y: pull(self.operator.adjoint(y, x)), level, x)
            return pull(self.operator.adjoint(v, x))

        return pred, gradient, state

    def solve(self, residual: Any, pull: Callable, level: Any, like: Any) -> Any:
        """Return v of (std^2 I + A C A^T) v = `residual`; `pull(y)` is J^T A^T y."""
        raise NotImplementedError
