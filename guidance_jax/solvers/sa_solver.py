"""SA-Solver, stochastic Adams (Xue et al. 2023, arXiv 2309.05019, Algorithm 1), with data prediction.

Let lambda = log(alpha / sigma), h = lambda_s - lambda_t, T = tau^2, and let l_i be the Lagrange polynomials on the
lambdas of the estimates m_i. The corrector has an estimate at s, too:

    x_s = (sigma_s / sigma_t) e^{-T h} x_t + sum_i c_i m_i + sigma_s sqrt(1 - e^{-2 T h}) z
    c_i = (1 + T) alpha_s int_t^s e^{(1 + T) (lambda - lambda_s)} l_i(lambda) dlambda

With two points the authors' third-order correction is added.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from guidance_jax.core import Level, Refused, Solver, known_zero, normal, pytree, static
from guidance_jax.solvers.history import History, log_ratio, safe

NODES, WEIGHTS = np.polynomial.legendre.leggauss(12)


@pytree
class SASolver(Solver):
    """A multistep SDE solver whose corrector reuses the noise of the predictor. One network call per step.

    Attributes:
      tau: the amount of noise: 0 is the ODE, 1 the SDE.
      order: the number of estimates that the predictor uses, 1 to 3.
      corrector: the number of estimates that the corrector uses, with the new one, 1 to 3; 0 for no corrector.

    Raises:
      Refused: other orders.
    """

    tau: Any = 1.0
    order: int = static(default=2)
    corrector: int = static(default=2)

    def __post_init__(self):
        if self.order not in (1, 2, 3) or self.corrector not in (0, 1, 2, 3):
            raise Refused(
                f"SASolver supports orders 1 to 3, got {self.order} and {self.corrector}; write SASolver(1.0)"
            )

    @property
    def deterministic(self):
        return known_zero(self.tau)

    def init(self, x):
        zero = jnp.zeros((), x.dtype)
        empty = History.empty(x, max(self.order, self.corrector, 2))
        return empty, jnp.zeros_like(x), jnp.zeros_like(x), (zero, zero, zero), zero, jnp.zeros((), jnp.int32)

    def step(self, pred, t, s, evaluate, state, key):
        history, before, z, last, tau, used = state
        x = t.alpha * pred.x0 + t.sigma * pred.eps
        new = history.add(pred.x0, t)
        if self.corrector:
            order = jnp.minimum(self.corrector, used + 1)
            corrected = self._move(before, Level(*last), t, new, order, z, tau, corrects=True)
            x = jnp.where(used > 0, corrected, x).astype(pred.x0.dtype)
        z, tau = normal(key, x), jnp.asarray(self.tau, x.dtype)
        order = jnp.where(s.sigma == 0, 1, jnp.clip(new.known, 1, self.order))
        moved = self._move(x, t, s, new, order, z, tau)
        level = tuple(jnp.asarray(a, x.dtype) for a in t)
        used = jnp.where((t.alpha > 0) & (s.sigma > 0), new.known, 0)
        return moved, (new, x, z, level, tau, used)

    def _move(
        self, x: Any, t: Level, s: Level, history: History, order: Any, z: Any, tau: Any, corrects: bool = False
    ) -> Any:
        """Move x from t to s by the newest `order` estimates. The newest is at t, or at s if `corrects`."""
        ratio = s.sigma * t.alpha / safe(s.alpha * t.sigma)  # e^-h
        ends = ratio == 0
        h = jnp.where(ends, 1, log_ratio(s) - log_ratio(t))
        power = 1 + tau**2
        kept = jnp.where(ends, jnp.where(tau == 0, 1, 0), jnp.exp(-(tau**2) * h))
        square = jnp.where(ends, jnp.where(tau == 0, 0, 1), -jnp.expm1(-2 * tau**2 * h))
        lambdas = history.lambdas - (log_ratio(s) if corrects else log_ratio(t))  # relative to the newest
        start, end = (-h, 0.0) if corrects else (0.0, h)
        at = start + h * (1 + jnp.asarray(NODES, h.dtype)) / 2
        weight = power * jnp.exp(power * (at - end)) * h / 2 * jnp.asarray(WEIGHTS, h.dtype)
        size = len(lambdas)
        known = jnp.arange(size) < order
        others = known[:, None] & known & ~np.eye(size, dtype=bool)
        gap = jnp.where(others, lambdas[:, None] - lambdas, 1)
        factors = jnp.where(others[..., None], (at - lambdas[None, :, None]) / safe(gap)[..., None], 1)
        c = jnp.where(known, jnp.sum(jnp.prod(factors, 1) * weight, -1), 0)
        third = h**2 / 2 - (h * power - 1 + jnp.exp(-power * h)) / power**2
        over = h if corrects else safe(lambdas[0] - lambdas[1])
        extra = jnp.where(order == 2, power * third / over, 0)
        c = c.at[0].add(extra).at[1].add(-extra)
        newest = jnp.where(jnp.arange(size) == 0, -jnp.expm1(-power * h), 0)
        c = jnp.where(ends, jnp.where(jnp.arange(size) == 0, 1, 0), jnp.where(order == 1, newest, c))
        moved = s.sigma / safe(t.sigma) * kept * x + s.alpha * jnp.tensordot(
            c, history.estimates, 1, precision="highest"
        )
        return moved + s.sigma * jnp.sqrt(square) * z
