"""Adaptive Guidance (Castillo et al. 2023, arXiv 2312.12487, section 4.2): stop asking twice once the two agree.

CFG until cos(eps_c, eps_u) exceeds `threshold`, from then on the conditional model alone.
"""

from typing import Any

import jax.numpy as jnp

from guidance_jax.core import GaussianDiffusion, norm, pytree, quotient
from guidance_jax.guidance.cfg import CFG
from guidance_jax.guidance.scales import active


@pytree
class AdaptiveGuidance(CFG):
    """CFG that, sample by sample, drops the unconditional call when the two noises agree. Keeps x.

    The choice depends on the sample, so the call is really skipped for one sample at a time (`sample`, or `lax.map`
    over samples); under `vmap` both are computed and one is chosen, with the same result. For batches, read the noise
    level at which they agree from `guidance_by_level` and use a `Window`.

    Attributes:
      inner, null, scale, in_turn: as in `CFG`.
      threshold: the cosine of the two noises, in [-1, 1], above which they agree.
    """

    threshold: Any = 0.99

    takes = GaussianDiffusion

    def memory(self, x):
        return jnp.ones((), bool)

    def needs_unconditional(self, level, memory):
        inside = active(self.scale, level)
        return memory if inside is None else memory & inside

    def rule(self, c, u, w, x, level, memory):
        agreement = quotient(jnp.sum(c.eps * u.eps), norm(c.eps) * norm(u.eps))
        # where the call was skipped, u is a copy of c and agrees with it: that says nothing
        agreed = self.needs_unconditional(level, memory) & (agreement > self.threshold)
        return c.contrast(u, w, level), memory & ~agreed
