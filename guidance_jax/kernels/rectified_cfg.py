"""Rectified-CFG++ (Saini et al. 2025, arXiv 2510.07631): predict along the conditional flow, correct from there.

    x' = x_t + (t' - t) v_c(x_t, t),   t' half way to s
    x_s = x_t + (s - t) (v_c(x_t, t) + scale (v_c(x', t') - v_u(x', t')))

where v = eps - x0 is the velocity of rectified flow. The kernel runs on all schedules, since each is rectified flow in
x / (alpha + sigma) with the clock sigma / (alpha + sigma). The paper's weight is a power of the clock; here it is any
scale.
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import Denoiser, GaussianDiffusion, Kernel, check_space, need, pytree, static
from guidance_jax.guidance.base import both, check_conditions, only_guided, stack_states
from guidance_jax.guidance.scales import active, strength
from guidance_jax.kernels.reverse import Carry
from guidance_jax.schedules import Schedule
from guidance_jax.solvers.ddim import DDIM


@pytree
class RectifiedCFGPlusPlus(Kernel):
    """Guide by the difference of the two predictions half a step ahead, on the conditional path.

    scale 0 is the conditional Euler step. Each step makes three network calls, two of them in one batch.

    Attributes:
      inner: a denoiser of images or vectors trained with conditioning dropout.
      null: the condition that means "unconditional".
      scale: a number, `Window`, `PerClass`, or a function of the level.
      schedule: the schedule of the levels; it gives the network's clock half way.

    Raises:
      Refused: as `CFG`; levels on another schedule.
    """

    inner: Any
    null: Any
    scale: Any
    schedule: Schedule = static()

    takes = GaussianDiffusion

    @property
    def space(self):
        return self.inner.space

    def start(self, key, levels, shape):
        return self.inner.start(key, levels, shape)

    def init(self, x):
        return Carry(x, stack_states(self.inner.init(x)), ())

    def check(self, levels, shape, cond):
        check_conditions(self, levels, shape, cond)
        self.schedule.check(levels, "RectifiedCFGPlusPlus calls the network between the levels of")

    def check_inner(self):
        """Raise `Refused` unless `inner` is a denoiser of images or vectors."""
        need(self, self.inner, Denoiser, "the first argument")
        check_space(self, self.space)

    def __call__(self, carry, t, s, cond, key):
        first_key, middle_key = jax.random.split(key)
        states, euler = carry.model_state, DDIM(0.0)
        own = jax.tree.map(lambda a: a[0], states)
        pred, own = self.inner(carry.x, t, cond, own, first_key)
        states = jax.tree.map(lambda a, b: a.at[0].set(b), states, own)
        clock, end = (level.sigma / (level.alpha + level.sigma) for level in (t, s))
        half = (clock + end) / 2
        middle = self.schedule(self.schedule.at_log_snr(2 * jnp.log((1 - half) / half)))
        ahead = euler.transition(pred, t, middle).mean
        w = strength(self.scale, t, cond, off=0.0)
        c, u, states = both(self.inner, ahead, middle, cond, self.null, states, middle_key, active(self.scale, t))
        u = only_guided(self.inner, u, c)  # no difference in channels that are not guided
        velocity = pred.eps - pred.x0 + w * ((c.eps - c.x0) - (u.eps - u.x0))
        z = carry.x / (t.alpha + t.sigma) + (end - clock) * velocity
        return Carry((s.alpha + s.sigma) * z, states, ())
