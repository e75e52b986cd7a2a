"""Tangential damping CFG (Kwon et al. 2025, arXiv 2503.18137, section 4): CFG with the unconditional output projected.

    u' = <u, v1> v1,   v1 the first right singular vector of the two rows [c; u],   out = u' + scale (c - u')

The top eigenvector (cos a, sin a) of the 2 x 2 Gram matrix has tan 2a = 2 c.u / (|c|^2 - |u|^2). This gives
u' = sin a (cos a c + sin a u) without a decomposition.
"""

import jax.numpy as jnp

from guidance_jax.core import norm, pytree, quotient
from guidance_jax.guidance.output import OutputRule


@pytree
class TCFG(OutputRule):
    """Guide like CFG with the unconditional output projected on the main direction of both outputs. scale 1 is D_c.

    The guided prediction still satisfies alpha x0 + sigma eps = x.

    Attributes:
      inner, null, scale, in_turn: as in `TwoConditions`.
      output: the parameterization in which the outputs are projected; the paper uses eps.
    """

    def mix(self, c, u, w):
        across, gap = 2 * jnp.sum(c * u), jnp.sum(c * c) - jnp.sum(u * u)
        size = norm(jnp.stack([across, gap]))
        sine, cosine = quotient(across, size), quotient(gap, size)  # of the angle 2a
        shared = (sine * c + (1 - cosine) * u) / 2
        return shared + w * (c - shared)
