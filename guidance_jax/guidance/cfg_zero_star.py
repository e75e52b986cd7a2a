"""CFG-Zero* (Fan et al. 2025, arXiv 2503.18886, eq. 10 and section 4.2).

v = s v_u + scale (v_c - s v_u),   s = v_c.v_u / |v_u|^2,   v = 0 in the first steps ("zero-init")
"""

from typing import Any

import jax.numpy as jnp

from guidance_jax.core import pytree, quotient, static
from guidance_jax.guidance.output import OutputRule
from guidance_jax.models import parameterizations
from guidance_jax.models.parameterizations import Parameterization


@pytree
class CFGZeroStar(OutputRule):
    """Guide like CFG with the unconditional velocity scaled to fit the conditional one; do not move above `zero_above`.

    The published rule leaves out the first step of any grid. Here the rule is a noise level: the first of 25 steps on
    the flow's clock is t above 0.96, or sigma / alpha above 24. A zero velocity leaves x / (alpha + sigma) unchanged,
    which is x on rectified flow. The guided prediction still satisfies alpha x0 + sigma eps = x.

    Attributes:
      inner, null, scale, in_turn: as in `TwoConditions`.
      zero_above: the noise-to-signal ratio above which nothing moves; infinite for no zero-init.
      output: the parameterization in which the rule is applied; the paper uses the velocity.
    """

    zero_above: Any = 24.0
    output: Parameterization = static(default=parameterizations.velocity, kw_only=True)

    def rule(self, c, u, w, x, level, memory):
        guided, memory = super().rule(c, u, w, x, level, memory)
        still = parameterizations.velocity.predict(jnp.zeros_like(x), x, level)  # in velocity, whatever `output` is
        return c.towards(jnp.where(level.ratio > self.zero_above, still.x0, guided.x0), level), memory

    def mix(self, c, u, w):
        u = quotient(jnp.sum(c * u), jnp.sum(u * u)) * u
        return u + w * (c - u)
