"""Rectified-CFG++ (Saini et al. 2025, arXiv 2510.07631): predict along the conditional flow, correct from there.

    x' = x_t + (t' - t) v_c(x_t, t),   t' half way to s
    x_s = x_t + (s - t) (v_c(x_t, t) + scale (v_c(x', t') - v_u(x', t')))

with v = eps - x0 the velocity of rectified flow. Every schedule is rectified flow in x / (alpha + sigma) with the clock
sigma / (alpha + sigma), so it runs on all. The paper's weight is a power of the clock; here it is any scale.
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import check, pytree, static
from guidance_jax.guidance.base import active, pair, strength
from guidance_jax.guidance.cfg import CFG
from guidance_jax.kernels.reverse import Carry
from guidance_jax.schedules import Schedule
from guidance_jax.solvers.ddim import DDIM


@pytree
class RectifiedCFGPlusPlus:
    """The guiding difference is taken half a step ahead, on the conditional path. scale 0 is the conditional Euler.

    `schedule` says what the network's own clock is half way. Three network calls a step.
    """

    model: Any
    null: Any
    scale: Any
    schedule: Schedule = static()

    def _pair(self):
        return CFG(self.model, self.null, 1.0)

    def init(self, x):
        return Carry(x, self._pair().init(x), ())

    def check(self, levels, shape, cond):
        check(self._pair(), levels, shape, cond)

    def __call__(self, carry, t, s, cond, key):
        first, second = jax.random.split(key)
        (states, memory), euler = carry.guide, DDIM(0.0)
        own = jax.tree.map(lambda a: a[0], states)
        pred, own = self.model(carry.x, t, cond, own, first)
        states = jax.tree.map(lambda a, b: a.at[0].set(b), states, own)
        clock, end = (level.sigma / (level.alpha + level.sigma) for level in (t, s))
        half = (clock + end) / 2
        middle = self.schedule(self.schedule.at_log_snr(2 * jnp.log((1 - half) / half)))
        ahead = euler.kernel(pred, t, middle)[0]
        w = strength(self.scale, t, cond, off=0.0)
        c, u, states = pair(self.model, ahead, middle, cond, self.null, states, second, active(self.scale, t))
        velocity = pred.eps - pred.x0 + w * ((c.eps - c.x0) - (u.eps - u.x0))
        z = carry.x / (t.alpha + t.sigma) + (end - clock) * velocity
        return Carry((s.alpha + s.sigma) * z, (states, memory), ())
