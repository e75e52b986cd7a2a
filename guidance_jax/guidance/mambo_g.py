"""MAMBO-G (Zhu et al. 2025, arXiv 2508.03442): less guidance where the update is large relative to the prediction.

v = v_u + w (v_c - v_u),   w = 1 + (scale - 1) exp(-damping |v_c - v_u| / |v_u|)
"""

from typing import Any

import jax.numpy as jnp

from guidance_jax.core import norm, pytree, quotient, static
from guidance_jax.guidance.output import OutputRule
from guidance_jax.models import parameterizations
from guidance_jax.models.parameterizations import Parameterization


@pytree
class MAMBOG(OutputRule):
    """Guide like CFG with a scale that falls, per sample, with the relative size of the update. damping 0 is CFG.

    The guided prediction still satisfies alpha x0 + sigma eps = x.

    Attributes:
      inner, null, scale, in_turn: as in `TwoConditions`.
      damping: how fast the scale falls with the relative size |v_c - v_u| / |v_u|.
      output: the parameterization in which the rule is applied; the paper uses the velocity.
    """

    damping: Any = 8.0
    output: Parameterization = static(default=parameterizations.velocity, kw_only=True)

    def mix(self, c, u, w):
        w = 1 + (w - 1) * jnp.exp(-self.damping * quotient(norm(c - u), norm(u)))
        return u + w * (c - u)
