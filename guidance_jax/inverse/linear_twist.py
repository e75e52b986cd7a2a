"""The twist of a linear measurement y = A x0 + std z; its covariance includes that of the clean sample given x_t.

    log p(y | x_t) ~ log N(y; A D(x_t), std^2 I + (sigma^2 / alpha) A J A^T)

By Tweedie's second formula (sigma^2 / alpha) J is Cov[x0 | x_t], so that for Gaussian data this is p(y | x_t) itself. A
likelihood of the clean estimate D omits that covariance: at small std it is far too sharp, and particles collapse.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import Denoiser, GaussianDiffusion, Guide, converted, need, pytree, static
from guidance_jax.guidance.gradient import through
from guidance_jax.models.adapters import known_part, part_of
from guidance_jax.operators.base import as_operator, check_measurement, check_operator, residual_of


@pytree
class LinearTwist(Guide):
    """Estimate log p(y | x_t) for `Twisted(model, solver, LinearTwist(model, operator, std), noisy=True)`.

    For m numbers in y, it takes one call of the model, m pull-backs and an (m, m) matrix: it is for few measurements.

    Attributes:
      model: the unguided denoiser.
      operator: A, linear, an `Operator` or any linear function of one sample.
      std: the standard deviation of the measurement noise: one number, or one for each measurement.
      observed: as in `GaussianLikelihood`.

    Raises:
      Refused: a model that is not a denoiser; an operator that is not linear; a measurement that does not fit; a std
        that is not positive.
    """

    model: Any
    operator: Any = converted(as_operator)
    std: Any
    observed: Callable | str | None = static(default=None)

    takes = GaussianDiffusion

    def check(self, levels, shape, cond):
        need(self, self.model, Denoiser, "the model")
        check_operator(self, self.operator, shape, linear=True)
        check_measurement(self, known_part(cond, self.observed), self.std)

    def log_prob(self, x, level, cond):
        y = part_of(cond, self.observed)

        def noisy():
            pred, pull, _ = through(self.model, x, level, cond, self.model.init(x), jax.random.key(0))
            residual = residual_of(self.operator, pred.x0, y)

            def column(e):
                return self.operator(pull(self.operator.adjoint(e.reshape(residual.shape), x))).ravel()

            spread = level.sigma**2 / level.alpha * jax.vmap(column)(jnp.eye(residual.size, dtype=residual.dtype))
            return residual.ravel(), (spread + spread.T) / 2

        def clean():
            residual = residual_of(self.operator, x, y).ravel()
            return residual, jnp.zeros((residual.size, residual.size), residual.dtype)

        residual, spread = jax.lax.cond(level.sigma > 0, noisy, clean)
        std = jnp.broadcast_to(jnp.asarray(self.std, residual.dtype), jnp.shape(y)).ravel()
        root = jnp.linalg.cholesky(spread + jnp.diag(std**2))
        white = jax.scipy.linalg.solve_triangular(root, residual, lower=True)
        return -0.5 * jnp.sum(white**2) - jnp.sum(jnp.log(jnp.diagonal(root))) + jnp.sum(jnp.log(std))
