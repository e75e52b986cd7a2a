"""Guidance rescale (Lin et al. 2023, arXiv 2305.08891, section 3.4).

    out = phi out_cfg std(out_c) / std(out_cfg) + (1 - phi) out_cfg

with `out` the model's output; the standard deviation is over one sample's own entries.
"""

from typing import Any

import jax.numpy as jnp

from guidance_jax.core import pytree, static
from guidance_jax.guidance.output import OutputRule
from guidance_jax.models import parameterizations
from guidance_jax.models.parameterizations import Parameterization


@pytree
class Rescale(OutputRule):
    """Rescale the output of CFG towards the standard deviation of the conditional output. phi 0 is CFG.

    A sample whose guided output is constant is not rescaled; the published code divides zero by zero there. The guided
    prediction still satisfies alpha x0 + sigma eps = x.

    Attributes:
      inner, null, scale, in_turn: as in `TwoConditions`.
      phi: the share of the rescaled output, from 0 to 1.
      output: the parameterization that is rescaled; the paper uses the model's own (eps for ADM, v for its SD models).
    """

    phi: Any = 0.7
    output: Parameterization = static(default=parameterizations.eps, kw_only=True)

    def mix(self, c, u, w):
        out = u + w * (c - u)
        std = jnp.std(out)
        factor = jnp.where(std > 0, jnp.std(c) / jnp.where(std > 0, std, 1), 1)
        return (self.phi * factor + 1 - self.phi) * out
