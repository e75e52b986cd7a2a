"""CFG-Zero* (Fan et al. 2025, arXiv 2503.18886, eq. 10 and section 4.2).

v = s v_u + scale (v_c - s v_u),   s = <v_c, v_u> / |v_u|^2,   v = 0 in the first steps ("zero-init")
"""

from typing import Any

import jax.numpy as jnp

from guidance_jax import parameterizations
from guidance_jax.core import pytree, static
from guidance_jax.guidance.base import quotient
from guidance_jax.guidance.output import OutputRule
from guidance_jax.parameterizations import Parameterization


@pytree
class CFGZeroStar(OutputRule):
    """CFG with the unconditional velocity scaled to fit the conditional one, and no motion above `zero_above`. Keeps x.

    `zero_above` is a noise-to-signal ratio, infinite for none: the published rule counts steps, which means another
    interval for every grid. A zero velocity only makes sense for a model of velocities on a flow.
    """

    zero_above: Any = jnp.inf
    space: Parameterization = static(default=parameterizations.velocity, kw_only=True)

    def combine(self, c, u, w, x, level):
        guided = super().combine(c, u, w, x, level)
        still = self.space.predict(jnp.zeros_like(x), x, level)
        return c.towards(jnp.where(level.ratio > self.zero_above, still.x0, guided.x0), level)

    def mix(self, c, u, w):
        u = quotient(jnp.sum(c * u), jnp.sum(u * u)) * u
        return u + w * (c - u)
