"""DPM-Solver++(2S), deterministic and ancestral (Lu et al. 2022, arXiv 2211.01095, Algorithm 1; k-diffusion's form)."""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import Solver, known_zero, normal, posterior_variance, pytree, static
from guidance_jax.schedules import Schedule


@pytree
class DPMSolver2S(Solver):
    """DPM-Solver++(2S): second order with two network calls per step, the second in the middle of the log-SNR step.

    The step to the clean level, and a step from a level without signal, are of first order.

    Attributes:
      schedule: the schedule of the levels, which gives the network's t in the middle of a step.
      eta: 0 for the ODE, 1 for a shorter deterministic step followed by ancestral noise.

    Raises:
      Refused: levels on another schedule.
    """

    schedule: Schedule = static()
    eta: Any = 0.0

    @property
    def deterministic(self):
        return known_zero(self.eta)

    def step(self, pred, t, s, evaluate, state, key):
        variance = self.eta**2 * posterior_variance(t, s) / s.alpha**2
        down = jnp.sqrt(jnp.maximum(s.ratio**2 - variance, 0))

        def second_order():
            y = pred.x0 + t.ratio * pred.eps
            middle = self.schedule(self.schedule.at_log_snr(-jnp.log(t.ratio) - jnp.log(down)))
            decay = jnp.sqrt(down / t.ratio)
            x = middle.alpha * (decay * y + (1 - decay) * pred.x0)
            return decay**2 * y + (1 - decay**2) * evaluate(x, middle).x0

        y = jax.lax.cond((down > 0) & (t.alpha > 0), second_order, lambda: pred.x0 + down * pred.eps)
        return s.alpha * (y + jnp.sqrt(variance) * normal(key, y)), state
