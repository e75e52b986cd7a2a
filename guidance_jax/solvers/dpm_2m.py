"""DPM-Solver++(2M) and its SDE form (Lu et al. 2022, arXiv 2211.01095, Algorithm 2 and section 5.1).

With lambda = log(alpha / sigma), h = lambda_s - lambda_t, the previous estimate D' and its step h':

    x_s = (sigma_s / sigma_t) e^{-eta h} x_t + alpha_s (1 - e^{-(1 + eta) h}) (D + h / (2 h') (D - D'))
          + sigma_s sqrt(1 - e^{-2 eta h}) z
"""

from typing import Any

import jax.numpy as jnp

from guidance_jax.core import Level, Solver, known_zero, normal, pytree


@pytree
class DPMSolver2M(Solver):
    """DPM-Solver++(2M): second order with one network call per step, by the estimate of the step before.

    The first step is of first order, and so is the second after a level without signal. The step to the clean level
    returns the clean estimate.

    Attributes:
      eta: 0 for the ODE, 1 for the SDE.
    """

    eta: Any = 0.0

    @property
    def deterministic(self):
        return known_zero(self.eta)

    def init(self, x):
        return jnp.zeros_like(x), jnp.zeros((), x.dtype)

    def step(self, pred, t, s, evaluate, state, key):
        old, h_old = state
        h, decay, kept, std, _ = exponential_step(t, s, self.eta)
        first = h_old == 0
        slope = jnp.where(first, 0, h / (2 * jnp.where(first, 1, h_old)))
        estimate = pred.x0 + slope * (pred.x0 - old)
        mean = s.alpha * (decay * pred.x0 + (1 - decay) * estimate) + s.sigma * kept * pred.eps
        return mean + std * normal(key, mean), (pred.x0, h)


def exponential_step(t: Level, s: Level, eta: Any) -> tuple[Any, Any, Any, Any, Any]:
    """Return (h, e^-(1 + eta) h, e^-eta h, standard deviation of the noise, whether the step from t to s is an end).

    The ends are the step to the clean level and a step from a level without signal. They are of first order, with h 0.
    """
    ratio = s.sigma * t.alpha / (s.alpha * t.sigma)  # e^-h
    ends = ratio == 0
    h = jnp.where(ends, 0, -jnp.log(jnp.where(ends, 1, ratio)))
    decay = jnp.where(ends, 0, jnp.exp(-(1 + eta) * h))
    kept = jnp.where(ends, jnp.where(eta == 0, 1.0, 0.0), jnp.exp(-eta * h))
    # at eta 0 it is 0, with a finite derivative
    std = s.sigma * jnp.where(ends, jnp.where(eta == 0, 0.0, 1.0), _sqrt(-jnp.expm1(-2 * eta * h)))
    return h, decay, kept, std, ends


def _sqrt(a: Any) -> Any:
    return jnp.where(a > 0, jnp.sqrt(jnp.where(a > 0, a, 1)), 0)
