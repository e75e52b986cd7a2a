"""DPM-Solver++(3M) SDE, k-diffusion's multistep solver of third order (after Lu et al. 2022, arXiv 2211.01095).

With H = (1 + eta) h, p_2 = (e^-H - 1) / H + 1, p_3 = p_2 / H - 1/2 and divided differences of the last estimates:

    x_s = (sigma_s / sigma_t) e^{-eta h} x_t + alpha_s ((1 - e^-H) D + p_2 D' - p_3 D'')
          + sigma_s sqrt(1 - e^{-2 eta h}) z
"""

from typing import Any

import jax.numpy as jnp

from guidance_jax.core import Solver, known_zero, normal, pytree
from guidance_jax.solvers.dpm_2m import exponential_step
from guidance_jax.solvers.history import History, safe


@pytree
class DPMSolver3M(Solver):
    """Third-order solver with one network call per step, by the estimates of the two steps before.

    Its first two steps have lower order.

    Attributes:
      eta: 1 for the SDE, as k-diffusion's `dpmpp_3m_sde`; 0 for the ODE.
    """

    eta: Any = 1.0

    @property
    def deterministic(self):
        return known_zero(self.eta)

    def init(self, x):
        return History.empty(x, 3)

    def step(self, pred, t, s, evaluate, state, key):
        history = state.add(pred.x0, t)
        h, _, kept, std, ends = exponential_step(t, s, self.eta)
        m, lambdas, size = history.estimates, history.lambdas, safe(h)
        r0, r1 = (safe(lambdas[0] - lambdas[1]) / size, safe(lambdas[1] - lambdas[2]) / size)
        near, far = (m[0] - m[1]) / r0, (m[1] - m[2]) / r1
        third = history.known >= 3
        first = jnp.where(third, near + (near - far) * r0 / safe(r0 + r1), near)
        second = jnp.where(third, (near - far) / safe(r0 + r1), 0)
        total = safe((1 + self.eta) * h)
        p2 = jnp.expm1(-total) / total + 1
        bend = jnp.where((history.known >= 2) & ~ends, p2 * first - (p2 / total - 0.5) * second, 0)
        mean = s.alpha * (pred.x0 + bend) + s.sigma * kept * pred.eps
        return mean + std * normal(key, mean), history
