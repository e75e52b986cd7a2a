"""MAMBO-G (Zhu et al. 2025, arXiv 2508.03442): less guidance where the update is large against the prediction.

v = v_u + w (v_c - v_u),   w = 1 + (scale - 1) exp(-damping |v_c - v_u| / |v_u|)
"""

from typing import Any

import jax.numpy as jnp

from guidance_jax import parameterizations
from guidance_jax.core import pytree, static
from guidance_jax.guidance.base import norm, quotient
from guidance_jax.guidance.output import OutputRule
from guidance_jax.parameterizations import Parameterization


@pytree
class MAMBOG(OutputRule):
    """CFG whose scale falls, per sample, with the relative size of the update. Keeps x; damping 0 is CFG."""

    damping: Any = 8.0
    space: Parameterization = static(default=parameterizations.velocity, kw_only=True)

    def mix(self, c, u, w):
        w = 1 + (w - 1) * jnp.exp(-self.damping * quotient(norm(c - u), norm(u)))
        return u + w * (c - u)
