"""Adaptive Guidance (Castillo et al. 2023, arXiv 2312.12487, section 4.2): stop asking twice once the two agree.

CFG until cos(eps_c, eps_u) exceeds `threshold`, from then on the conditional model alone.
"""

from typing import Any

import jax.numpy as jnp

from guidance_jax.core import pytree
from guidance_jax.guidance.base import active, norm, only_guided, pair, quotient, strength
from guidance_jax.guidance.cfg import CFG


@pytree
class AdaptiveGuidance(CFG):
    """CFG that, sample by sample, drops the unconditional call when the two noises agree. Keeps x.

    The choice depends on the sample, so the call is really skipped for one sample at a time (`sample`, or `lax.map`
    over samples); under `vmap` both are computed and one is chosen, with the same result. For batches, read the noise
    level at which they agree from `guidance_by_level` and use a `Window`.
    """

    threshold: Any = 0.99

    def memory(self, x):
        return jnp.ones((), bool)

    def __call__(self, x, level, cond, state, key):
        inner, asking = state
        w = strength(self.scale, level, cond, off=1.0)
        inside = active(self.scale, level)
        on = asking if inside is None else asking & inside
        c, u, inner = pair(self.inner, x, level, cond, self.null, inner, key, on)
        agreement = quotient(jnp.sum(c.eps * u.eps), norm(c.eps) * norm(u.eps))
        guided = only_guided(self.inner, self.combine(c, u, w, x, level), c)
        seen = True if inside is None else inside
        return guided, (inner, asking & ~((agreement > self.threshold) & seen))
