"""Adaptive projected guidance (Sadat et al. 2024, arXiv 2410.02416, Algorithm 1).

    d <- D_c - D_u + momentum d_before,   d <- d min(1, radius / |d|)
    D = D_c + (scale - 1) (d_perp + eta d_par)       split along D_c

As in the paper, the rule acts on the clean estimate. The code that is often copied applies it to the network's output
instead, and adds the update to the unconditional output.
"""

from typing import Any

import jax.numpy as jnp

from guidance_jax.core import GaussianDiffusion, norm, pytree, quotient
from guidance_jax.guidance.conditions import TwoConditions


@pytree
class APG(TwoConditions):
    """Guide like CFG with an update of limited length that loses (eta < 1) its part along D_c, which over-saturates.

    Each step makes one network call with both conditions. The state is the running sum of differences D_c - D_u. eta 1,
    momentum 0 and an infinite radius are CFG. The guided prediction still satisfies alpha x0 + sigma eps = x.

    Attributes:
      inner, null, scale, in_turn: as in `TwoConditions`.
      eta: the share of the part along D_c that stays.
      momentum: the weight of the differences of earlier steps, negative in the paper.
      radius: the largest norm of the difference over one sample, in units of x0. The paper has 15 for Stable Diffusion
        XL, whose samples have 65,536 numbers. Norms grow with the root of that number, so for N numbers start with
        15 sqrt(N / 65536).
    """

    eta: Any = 0.0
    momentum: Any = -0.5
    radius: Any = 15.0

    takes = GaussianDiffusion

    def memory(self, x):
        return jnp.zeros_like(x)

    def rule(self, c, u, w, x, level, memory):
        running = c.x0 - u.x0 + self.momentum * memory
        size = norm(running)
        diff = running * jnp.where(size > self.radius, quotient(self.radius, size), 1)
        unit = quotient(c.x0, norm(c.x0))
        along = jnp.sum(unit * diff) * unit
        return c.towards(c.x0 + (w - 1) * (diff - along + self.eta * along), level), running
