"""Predictor-free guidance of rates (Nisonoff et al. 2024, arXiv 2406.01572, eq. 4).

    R = R_c^scale R_u^(1 - scale)

These rates are not normalised. By Hoelder's inequality the total rate grows with scale > 1, so tokens jump earlier than
in training.
`CFG` of tokens is the normalised form, D-CFG, which keeps the speed.
"""

from typing import Any

import jax.numpy as jnp

from guidance_jax.core import add_logs, pytree
from guidance_jax.discrete.process import Diffusion
from guidance_jax.guidance.conditions import TwoConditions
from guidance_jax.guidance.scales import not_negative


@pytree
class PredictorFree(TwoConditions):
    """Apply classifier-free guidance to rates. One network call per step, with both conditions.

    Scale 1 is the conditional model.

    Attributes:
      inner: a denoiser of tokens trained with conditioning dropout.
      null: the condition that means "unconditional".
      scale: a number, `Window`, `PerClass`, or a function of the level; not negative.
      in_turn: as in `TwoConditions`.

    Raises:
      Refused: no condition or no null condition; a condition that the model does not know; a negative scale; a model of
        text, which has no rates, or of images.
    """

    inner: Any
    null: Any
    scale: Any

    takes = Diffusion

    def check(self, levels, shape, cond):
        not_negative(self)
        super().check(levels, shape, cond)

    def rule(self, c, u, w, x, level, memory):
        own, other = (add_logs(p.process.log_rates(p.x, p.log_p, level), p.tilt) for p in (c, u))
        both = (own != -jnp.inf) & (other != -jnp.inf)
        gap = jnp.where(both, jnp.where(both, own, 0) - jnp.where(both, other, 0), 0)
        return c.tilt_by((w - 1) * gap), memory
