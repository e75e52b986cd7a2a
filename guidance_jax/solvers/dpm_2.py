"""DPM-Solver-2 (Lu et al. 2022, arXiv 2206.00927) as in Karras et al. 2022: the midpoint rule in log sigma."""

import jax
import jax.numpy as jnp

from guidance_jax.core import Solver, pytree, static
from guidance_jax.schedules import Schedule


@pytree
class DPM2(Solver):
    """Second-order deterministic solver. Two network calls per step, the second at the geometric mean of sigma / alpha.

    The step to the clean level, and a step from a level without signal, are Euler steps.

    Attributes:
      schedule: the schedule of the levels, which gives the network's t in the middle of a step.

    Raises:
      Refused: levels on another schedule.
    """

    schedule: Schedule = static()

    deterministic = True

    def step(self, pred, t, s, evaluate, state, key):
        def midpoint():
            y = pred.x0 + t.ratio * pred.eps
            middle = self.schedule(self.schedule.at_log_snr(-jnp.log(t.ratio) - jnp.log(s.ratio)))
            d = evaluate(middle.alpha * (y + (middle.ratio - t.ratio) * pred.eps), middle).eps
            return s.alpha * (y + (s.ratio - t.ratio) * d)

        euler = s.alpha * pred.x0 + s.sigma * pred.eps
        return jax.lax.cond((s.sigma > 0) & (t.alpha > 0), midpoint, lambda: euler), state
