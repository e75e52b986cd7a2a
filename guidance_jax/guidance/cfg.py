"""Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598, eq. 6).

    D = D_u + scale (D_c - D_u)

The same combination of x0, eps, scores or velocities gives the same result, since x is fixed.
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import pytree, static
from guidance_jax.guidance.base import Guidance, active, check_both, only_guided, pair, strength


@pytree
class CFG(Guidance):
    """D_u + scale (D_c - D_u): scale 1 is the conditional model, 0 the unconditional one. Keeps x.

    One network call with both conditions. Outside a `Window` the scale is 1 and the unconditional call is skipped.

    Attributes:
      inner: a denoiser trained with conditioning dropout.
      null: the condition that means "unconditional", of the structure of one sample's `cond` (`domain.null_label`).
      scale: a number, `Window`, `PerClass`, or a function of the level.
      in_turn: ask the two conditions one after the other, in half the memory; by default they are one batch (vmapped,
        which is concatenated: a network sees one axis).
    """

    inner: Any
    null: Any
    scale: Any
    in_turn: bool = static(default=False, kw_only=True)

    @classmethod
    def from_weight(cls, inner: Any, null: Any, weight: Any, **fields: Any) -> "CFG":
        """Ho & Salimans' weight w, (1 + w) D_c - w D_u: weight 0 is the conditional model."""
        return cls(inner, null, 1 + weight, **fields)

    @classmethod
    def from_gamma(cls, inner: Any, null: Any, gamma: Any, **fields: Any) -> "CFG":
        """GLIDE's gamma, (1 - gamma) D_u + gamma D_c: the same as `scale`."""
        return cls(inner, null, gamma, **fields)

    def init(self, x):
        return jax.tree.map(lambda s: jnp.stack([s, s]), self.inner.init(x)), self.memory(x)

    def memory(self, x):
        """What the rule itself remembers from step to step."""
        return ()

    def check(self, levels, shape, cond):
        check_both(self, levels, shape, cond)

    def __call__(self, x, level, cond, state, key):
        w = strength(self.scale, level, cond, off=1.0)
        inner, memory = state
        on = self.asking(level, memory)
        on = jnp.array(True) if on is None and self.in_turn else on
        c, u, inner = pair(self.inner, x, level, cond, self.null, inner, key, on)
        guided, memory = self.remember(c, u, w, x, level, memory)
        return only_guided(self.inner, guided, c), (inner, memory)

    def asking(self, level, memory):
        """Whether the unconditional call is needed: a boolean, or None for always."""
        return active(self.scale, level)

    def remember(self, c, u, w, x, level, memory):
        """(guided prediction, new memory); a rule without memory is `combine` alone."""
        return self.combine(c, u, w, x, level), memory

    def combine(self, c, u, w, x, level):
        """The guided prediction from the conditional and the unconditional one."""
        return c.contrast(u, w, level)
