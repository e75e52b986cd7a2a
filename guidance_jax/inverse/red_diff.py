"""RED-diff (Mardani et al. 2023, arXiv 2305.04391, Algorithm 1): one point, fitted to the measurement and the model.

    mu <- Adam on  |y - A mu|^2 / (2 std^2) + weight r <eps(alpha mu + sigma z) - z, mu>,   r = sigma / alpha

with eps(...) - z held fixed in the gradient. The terms are sums over entries, as in InverseBench. The authors' code
takes means, so that their weight depends on the number of measurements.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from guidance_jax.core import GaussianDiffusion, converted, normal, pytree, static
from guidance_jax.kernels.model_kernel import ModelKernel
from guidance_jax.kernels.reverse import Carry
from guidance_jax.models.adapters import known_part, part_of
from guidance_jax.operators.base import (
    as_operator,
    check_measurement,
    check_one_noise,
    check_operator,
    is_linear,
    residual_of,
)


@pytree
class REDdiff(ModelKernel):
    """Fit one point to the measurement and the model. The result is a mode, not a sample.

    One call of the model per step, no gradient of it.

    Attributes:
      model: a denoiser of images or vectors, usually unconditional.
      operator: A, an `Operator` or any function of one sample, linear or not. With a linear one the start is
        (A^T A + std^2 I)^-1 A^T y, which tends to the paper's A^+ y as std falls; otherwise it is 0.
      std: the standard deviation of the measurement noise, one number above 0.
      weight: the weight of the model's term; .25 in the paper.
      rate: the learning rate of Adam; .1 to .5 in the paper.
      observed: which part of `cond` is the measurement y: a function of `cond`, the name of an entry, or None for all.

    Raises:
      Refused: tokens; a measurement that does not fit the operator; a std that is not positive.
    """

    model: Any
    operator: Any = converted(as_operator)
    std: Any
    weight: Any = 0.25
    rate: Any = 0.1
    observed: Callable | str | None = static(default=None)

    takes = GaussianDiffusion

    def init(self, x):
        return Carry(x, self.model.init(x), (self._adam().init(x), jnp.zeros((), bool)))

    def _adam(self) -> Any:
        return optax.scale_by_adam(b1=0.9, b2=0.99)

    def check(self, levels, shape, cond):
        super().check(levels, shape, cond)
        check_operator(self, self.operator, shape)
        check_measurement(self, known_part(cond, self.observed), self.std)
        check_one_noise(self, self.std)

    def __call__(self, carry, t, s, cond, key):
        model_key, noise_key = jax.random.split(key)
        adam, begun = carry.solver_state
        y = part_of(cond, self.observed)
        mu = jnp.where(begun, carry.x, self.first(y, carry.x))
        z = normal(noise_key, mu)
        pred, state = self.model(t.noise(mu, z), t, cond, carry.model_state, model_key)
        misfit = jax.grad(lambda x: jnp.sum(residual_of(self.operator, x, y) ** 2))(mu) / (2 * self.std**2)
        # r (eps - z) = mu - D, which is finite where there is no signal
        step, adam = self._adam().update(misfit + self.weight * (mu - pred.x0), adam)
        return Carry(mu - self.rate * step, state, (adam, jnp.ones((), bool)))

    def first(self, y: Any, like: Any) -> Any:
        """Return the starting point: the ridge solution, or 0 if the operator is not linear."""
        if not is_linear(self.operator, jnp.shape(like)):
            return jnp.zeros_like(like)
        return self.operator.solve(self.operator.adjoint(y, like), jnp.asarray(self.std, like.dtype) ** 2)
