"""Measurements in the basis of the operator's singular vectors, where each coefficient has its own accuracy.

In this basis y / s = x_0 + (std / s) z for every coefficient with singular value s > 0. The others are not measured.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import (
    GaussianDiffusion,
    Refused,
    concrete,
    converted,
    normal,
    pytree,
    static,
)
from guidance_jax.kernels.model_kernel import ModelKernel
from guidance_jax.kernels.reverse import Carry
from guidance_jax.models.adapters import known_part, part_of
from guidance_jax.operators.base import as_operator, check_measurement, check_one_noise, check_operator, residual_of


def read_measurement(operator: Any, y: Any, std: Any, like: Any) -> tuple[Any, Any, Any]:
    """Return (`SVD`, y / s, std / s) of a measurement of samples like `like`; 0 where nothing is measured."""
    residual_of(operator, like, y)  # raises `Refused` if the shapes differ
    svd = operator.svd(like)
    seen = svd.divide(svd.to(operator.adjoint(y, like)), svd.values**2)
    return svd, seen, svd.divide(jnp.broadcast_to(jnp.asarray(std, like.dtype), svd.values.shape), svd.values)


@pytree
class SpectralKernel(ModelKernel):
    """Base class of `DDRM` and `DDNM`, with one call of the model per step and no gradient; a subclass gives `move`.

    Its fields are those of `DDRM` without `eta_b`.
    """

    model: Any
    operator: Any = converted(as_operator)
    std: Any
    eta: Any = 0.85
    observed: Callable | str | None = static(default=None)

    takes = GaussianDiffusion

    def check(self, levels, shape, cond):
        super().check(levels, shape, cond)
        check_operator(self, self.operator, shape, linear=True)
        self.operator.svd(jnp.zeros(shape))
        check_measurement(self, known_part(cond, self.observed))
        check_one_noise(self, self.std)
        if concrete(self.std) and not 0 <= float(self.std) < np.inf:
            raise Refused(f"the noise of {type(self).__name__} must be 0 or more and finite, got std={self.std}")
        if concrete(self.eta) and not 0 <= float(self.eta) <= 1:
            raise Refused(f"eta, the share of fresh noise, must be from 0 to 1, got {self.eta}; write eta=0.85")

    def __call__(self, carry, t, s, cond, key):
        model_key, noise_key = jax.random.split(key)
        pred, state = self.model(carry.x, t, cond, carry.model_state, model_key)
        svd, seen, noise = read_measurement(self.operator, part_of(cond, self.observed), self.std, pred.x0)
        clean, eps, z = svd.to(pred.x0), svd.to(pred.eps), svd.to(normal(noise_key, pred.x0))
        moved = jnp.where(
            svd.known,
            self.move(clean, eps, z, seen, noise, s),
            s.alpha * clean + s.sigma * (jnp.sqrt(1 - self.eta**2) * eps + self.eta * z),
        )
        return Carry(svd.back(moved).astype(carry.x.dtype), state, ())

    def move(self, clean: Any, eps: Any, z: Any, seen: Any, noise: Any, s: Any) -> Any:
        """Return x_s where something is measured, from D, eps, fresh noise z, y / s (`seen`) and std / s (`noise`)."""
        raise NotImplementedError

    def restore(self, clean: Any, z: Any, seen: Any, noise: Any, s: Any, eta_b: Any = 1.0) -> Any:
        """Return x_s by the rule that both papers have for noisy measurements; in DDNM `eta_b` is 1."""
        coarse = s.alpha * noise > s.sigma
        n = jnp.where(coarse, noise, 1)
        below = s.sigma * (jnp.sqrt(1 - self.eta**2) * (seen - clean) / n + self.eta * z)
        left = jnp.sqrt(jnp.maximum(s.sigma**2 - (s.alpha * eta_b * noise) ** 2, 0))
        above = s.alpha * eta_b * (seen - clean) + left * z
        return s.alpha * clean + jnp.where(coarse, below, above)
