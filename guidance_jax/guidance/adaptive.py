"""Adaptive Guidance (Castillo et al. 2023, arXiv 2312.12487, section 4.2): no second call once both predictions agree.

It is CFG until cos(eps_c, eps_u) has risen above `threshold`, and the conditional model alone from then on.

The paper starts where the two noises differ. At levels of little signal they agree for another reason: both are almost
x / sigma. Agreement therefore counts only after the cosine has been at or below the threshold once.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

from guidance_jax.core import GaussianDiffusion, norm, pytree, quotient
from guidance_jax.guidance.conditions import TwoConditions
from guidance_jax.guidance.scales import active


class Asked(NamedTuple):
    """The state: `on` says whether unconditional calls go on, `differed` whether the noises have differed so far."""

    on: Any
    differed: Any


@pytree
class AdaptiveGuidance(TwoConditions):
    """Guide like CFG, but stop the unconditional calls of a sample when its two noises agree again.

    If the cosine of the noises never falls to the threshold, this is CFG at every step and saves nothing.
    `guidance_by_level(keys, model, Unconditional(model, null), ...)` shows the cosine by level: choose a threshold
    above its smallest value. The guided prediction still satisfies alpha x0 + sigma eps = x.

    The decision depends on the sample. The call is therefore skipped only where samples run one at a time (`sample`, or
    `lax.map` over samples). Under `vmap` both predictions are computed and one is chosen, with the same result. For
    batches, read the noise level at which the noises agree from `guidance_by_level` and use a `Window`.

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
        # where the call was skipped, u is a copy of c, so their agreement has no meaning
        asked = self.needs_unconditional(level, memory)
        differed = memory.differed | (asked & ~agree)
        return c.contrast(u, w, level), Asked(memory.on & ~(asked & agree & memory.differed), differed)
