"""Filtering posterior sampling (Dou & Song 2024, ICLR; MCG-diff, Cardoso et al. 2023, arXiv 2308.07983): particles.

In the basis of singular vectors, y / s = x_0 + n z with n = std / s where s > 0. With a flat prior the twist is

    p~(x_t) = N(y / s; x_t / alpha_t, r_t^2 + n^2),   r = sigma / alpha

and the proposal is the solver's own transition N(m, q^2) times p~(x_s), which is Gaussian again:

    K = q^2 / (q^2 + V),   V = sigma_s^2 + alpha_s^2 n^2,   x_s ~ N(m + K (alpha_s y / s - m), (1 - K) q^2)
    weight = N(y / s; m / alpha_s, r_s^2 + n^2 + q^2 / alpha_s^2) / p~(x_t)
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from guidance_jax.core import GaussianDiffusion, Move, Refused, concrete, converted, float_type, normal, pytree, static
from guidance_jax.inverse.spectral import read_measurement
from guidance_jax.kernels.reverse import Step
from guidance_jax.models.adapters import known_part, part_of
from guidance_jax.operators.base import as_operator, check_measurement, check_one_noise, check_operator


@pytree
class FPS(Step, Move):
    """Sample the posterior of a linear measurement under the solver's own chain: a move for `SMC`.

    It is exact with many particles. One call of the model per particle and step, no gradient. The step to the clean
    level is the solver's own.

    Attributes:
      model: the unguided denoiser of images or vectors.
      solver: one whose transition has the same positive variance for all entries: `DDPM()` with a fixed variance, or
        `DDIM(1.0)`.
      operator: A, linear, with singular values.
      std: the standard deviation of the measurement noise, one number above 0.
      observed: which part of `cond` is the measurement y: a function of `cond`, the name of an entry, or None for all.

    Raises:
      Refused: an operator without singular values; a measurement that does not fit; a solver without variance; tokens.
    """

    model: Any
    solver: Any
    operator: Any = converted(as_operator)
    std: Any
    observed: Callable | str | None = static(default=None)

    takes = GaussianDiffusion
    weighs = True

    def check(self, levels, shape, cond):
        super().check(levels, shape, cond)
        check_operator(self, self.operator, shape, linear=True)
        self.operator.svd(jnp.zeros(shape))
        check_measurement(self, known_part(cond, self.observed), self.std)
        check_one_noise(self, self.std)
        if concrete(levels) and (np.asarray(levels.alpha) == 0).any():
            raise Refused(
                "FPS compares x / alpha with the measurement, got a level without signal; start at a lower noise level"
            )

    def init(self, x):
        return self.model.init(x), jnp.zeros((), float_type(x))

    def fit(self, found: Any, x: Any, alpha: Any, variance: Any) -> Any:
        """Return log N(y / s; x / alpha, variance) of what is measured, less the normalising term of variance n^2."""
        svd, seen, n = found
        gap = jnp.abs(seen - svd.to(x) / alpha) ** 2
        known = jnp.broadcast_to(svd.known, gap.shape)
        spread = jnp.where(known, variance, 1)
        own = jnp.where(known, n, 1)
        return -0.5 * jnp.sum(jnp.where(known, gap / spread + jnp.log(spread) - 2 * jnp.log(own), 0))

    def potential(self, x, state, t, cond, key):
        own, before = state
        pred, own = self.model(x, t, cond, own, key)
        found = read_measurement(self.operator, part_of(cond, self.observed), self.std, x)
        value = self.fit(found, x, t.alpha, t.ratio**2 + found[2] ** 2)
        return (pred, own, value), value - before

    def propose(self, found, t, s, cond, key):
        pred, own, value = found
        p = self.solver.transition(pred, t, s)
        svd, seen, n = read_measurement(self.operator, part_of(cond, self.observed), self.std, p.mean)
        q2 = jnp.where(s.sigma == 0, 0, p.std**2)
        gain = self.fit((svd, seen, n), p.mean, s.alpha, s.ratio**2 + n**2 + q2 / s.alpha**2)
        k = jnp.where(svd.known, q2 / (q2 + s.sigma**2 + (s.alpha * n) ** 2 + (q2 == 0)), 0)
        mean, z = svd.to(p.mean), svd.to(normal(key, p.mean))
        x = svd.back(mean + k * (s.alpha * seen - mean) + jnp.sqrt(q2 * (1 - k)) * z).astype(p.mean.dtype)
        # the gain holds the twist at x_s, less the one paid at t; so the next potential, its value less `after`, is 0
        after = self.fit((svd, seen, n), x, s.alpha, s.ratio**2 + n**2)
        return x, (own, after), gain - value

    def final_potential(self, x, state, level, cond, key):
        return jnp.zeros((), float_type(x))
