"""UniPC (Zhao et al. 2023, arXiv 2302.04867, Algorithms 5 to 8), with data prediction: predictor and corrector.

Let lambda = log(alpha / sigma), h = lambda_s - lambda_t, q = -h, and B = q (`bh1`) or e^q - 1. With the estimates m,
d_i = (m_{t-i} - m_t) / r_i and r_i = (lambda_{t-i} - lambda_t) / h:

    predictor  x_s = (sigma_s / sigma_t) x_t - alpha_s (e^q - 1) m_t - alpha_s B sum_{i<p} rho_i d_i
    corrector  the same with r_p = 1, d_p = m_s - m_t at the predicted x_s
    rho solves sum_i r_i^(k-1) rho_i = k! phi_k(q) / B,   k = 1, 2, ...
"""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from guidance_jax.core import Level, Refused, Solver, pytree, static
from guidance_jax.solvers.history import History, log_ratio, safe


@pytree
class UniPC(Solver):
    """Deterministic solver of order p, or p + 1 with the corrector, for few steps. One network call per step.

    The corrector replaces the sample after the network call, without another call. The first steps have the highest
    order that is possible; the step to the clean level has order 1. If guidance moves x, as CFG++ does, the solver
    goes on from the moved x at the first step, and later only without the corrector.

    Attributes:
      order: the order p of the predictor, 1 to 3.
      bh1: True for the paper's B_1, False for B_2, the usual one.
      corrects: whether to use the corrector.

    Raises:
      Refused: another order.
    """

    order: int = static(default=2)
    bh1: bool = static(default=False)
    corrects: bool = static(default=True)

    def __post_init__(self):
        if self.order not in (1, 2, 3):
            raise Refused(f"UniPC supports orders 1 to 3, got {self.order}; write UniPC(2)")

    deterministic = True

    def init(self, x):
        zero = jnp.zeros((), x.dtype)
        return History.empty(x, self.order), jnp.zeros_like(x), (zero, zero, zero), jnp.zeros((), jnp.int32)

    def step(self, pred, t, s, evaluate, state, key):
        history, before, last, used = state
        x = t.alpha * pred.x0 + t.sigma * pred.eps
        if self.corrects:
            corrected = self._move(before, Level(*last), t, history, used, pred.x0)
            x = jnp.where(used > 0, corrected, x).astype(pred.x0.dtype)
        history = history.add(pred.x0, t)
        order = jnp.where(s.sigma == 0, 1, jnp.maximum(history.known, 1))
        moved = self._move(x, t, s, history, order)
        level = tuple(jnp.asarray(a, x.dtype) for a in t)
        used = jnp.where((t.alpha > 0) & (s.sigma > 0), order, 0)  # the predictor's order; 0: no step to correct
        return moved, (history, x, level, used)

    def _move(self, x: Any, t: Level, s: Level, history: History, order: Any, new: Any = None) -> Any:
        """Move x from t to s by the estimates of `history`, the newest at t, and, in the corrector, by `new` at s."""
        m = history.estimates[0]
        decay = s.sigma * t.alpha / safe(s.alpha * t.sigma)  # e^-h
        straight = s.sigma / safe(t.sigma) * x + s.alpha * (1 - decay) * m
        h = safe(jnp.where(decay > 0, log_ratio(s) - log_ratio(t), 1))
        found = straight
        for p in range(1, self.order + 1):
            points = [(history.lambdas[i] - history.lambdas[0]) / h for i in range(1, p)]
            points = [jnp.where(order >= p, r, -i - 1.0) for i, r in enumerate(points)]  # distinct if not used
            slopes = [(history.estimates[i] - m) / safe(r) for i, r in enumerate(points, 1)]
            if new is not None:
                points, slopes = [*points, 1.0], [*slopes, new - m]
            if slopes:
                shift = sum(c * d for c, d in zip(self._weights(points, h), slopes, strict=True))
                found = jnp.where(order == p, straight - s.alpha * shift, found)
        return found

    def _weights(self, points: list, h: Any) -> list:
        """Return B rho for slopes at `points`, which are in units of h."""
        q = -h
        b = q if self.bh1 else jnp.expm1(q)
        n = len(points)
        if n == 1:  # the paper's and everyone's choice
            return [b / 2]
        right = jnp.stack([math.factorial(k) * _phi(k, q) for k in range(1, n + 1)])
        r = jnp.stack([jnp.asarray(p, right.dtype) for p in points])
        return list(jnp.linalg.solve(r[None] ** np.arange(n)[:, None], right))


def _phi(k: int, q: Any) -> Any:
    """Return sum_{j >= 1} q^j / (j + k)!, by its series where the closed form loses digits."""
    series = sum(q**j / float(math.factorial(j + k)) for j in range(1, 13))
    far = jnp.where(jnp.abs(q) > 1, q, 1.0)
    closed = jnp.expm1(far) / far - 1
    for i in range(2, k + 1):
        closed = closed / far - 1 / math.factorial(i)
    return jnp.where(jnp.abs(q) > 1, closed, series)
