"""Adaptive Guidance (Castillo et al. 2023, arXiv 2312.12487, section 4.2): stop asking twice once the two agree.

CFG until cos(eps_c, eps_u) has risen above `threshold`, from then on the conditional model alone.

The paper starts where the two noises differ. At levels of little signal they agree for another reason: both are almost
x / sigma. So agreement counts only after the cosine has been at or below the threshold once.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

from guidance_jax.core import GaussianDiffusion, norm, pytree, quotient
from guidance_jax.guidance.conditions import TwoConditions
from guidance_jax.guidance.scales import active


class Asked(NamedTuple):
    """Whether the unconditional model is still asked, and whether its noise has differed so far."""

    on: Any
    differed: Any


@pytree
class AdaptiveGuidance(TwoConditions):
    """CFG that, sample by sample, drops the unconditional call when the two noises agree again. Keeps x.

    A model whose noises never differ by more than the threshold is guided at every step: this is CFG then, and spares
    nothing. `guidance_by_level(keys, model, Unconditional(model, null), ...)` shows the cosine by level: choose a
    threshold above the least.

    The choice depends on the sample, so the call is really skipped for one sample at a time (`sample`, or `lax.map`
    over samples); under `vmap` both are computed and one is chosen, with the same result. For batches, read the noise
    level at which they agree from `guidance_by_level` and use a `Window`.

    Attributes:
      inner, null, scale, in_turn: as in `TwoConditions`.
      threshold: the cosine of the two noises, in [-1, 1], above which they agree.
    """

    threshold: Any = 0.99

    takes = GaussianDiffusion
    aims_at_power = False  # where the call is skipped there is no second prediction

    def memory(self, x):
        return Asked(jnp.ones((), bool), jnp.zeros((), bool))

    def needs_unconditional(self, level, memory):
        inside = active(self.scale, level)
        return memory.on if inside is None else memory.on & inside

    def rule(self, c, u, w, x, level, memory):
        agree = quotient(jnp.sum(c.eps * u.eps), norm(c.eps) * norm(u.eps)) > self.threshold
        # where the call was skipped, u is a copy of c and agrees with it: that says nothing
        asked = self.needs_unconditional(level, memory)
        differed = memory.differed | (asked & ~agree)
        return c.contrast(u, w, level), Asked(memory.on & ~(asked & agree & memory.differed), differed)
