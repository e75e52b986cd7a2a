"""Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598, eq. 6).

    D = D_u + scale (D_c - D_u)

The same combination of x0, eps, scores or velocities gives the same result, since x is fixed. Of tokens it is the
combination of log p, normalised per position: D-CFG (Schiff et al. 2024, arXiv 2412.10193); of text, of logits.
"""

from typing import Any, ClassVar

import jax.numpy as jnp

from guidance_jax.core import pytree, static
from guidance_jax.guidance.base import Contrast, both, check_conditions, only_guided, stacked
from guidance_jax.guidance.scales import active, strength


@pytree
class CFG(Contrast):
    """D_u + scale (D_c - D_u): scale 1 is the conditional model, 0 the unconditional one. Keeps x.

    One network call with both conditions. Outside a `Window` the scale is 1 and the unconditional call is skipped.

    Attributes:
      inner: a denoiser trained with conditioning dropout.
      null: the condition that means "unconditional", of the structure of one sample's `cond` (`domain.null_label`); of
        a dict, entries that it lacks are the sample's own, such as the image beside a caption.
      scale: a number, `Window`, `PerClass`, or a function of the level.
      in_turn: ask the two conditions one after the other, in half the memory; by default they are one batch (vmapped,
        which is concatenated: a network sees one axis).

    Raises:
      Refused: no condition or no null condition, or a condition that the model does not know.
    """

    inner: Any
    null: Any
    scale: Any
    in_turn: bool = static(default=False, kw_only=True)

    off: ClassVar[float] = 1.0  # the strength outside a `Window`

    @classmethod
    def from_weight(cls, inner: Any, null: Any, weight: Any, **fields: Any) -> "CFG":
        """Ho & Salimans' weight w, (1 + w) D_c - w D_u: weight 0 is the conditional model."""
        return cls(inner, null, 1 + weight, **fields)

    @classmethod
    def from_gamma(cls, inner: Any, null: Any, gamma: Any, **fields: Any) -> "CFG":
        """GLIDE's gamma, (1 - gamma) D_u + gamma D_c: the same as `scale`."""
        return cls(inner, null, gamma, **fields)

    def init(self, x):
        return stacked(self.inner.init(x)), self.memory(x)

    def memory(self, x: Any) -> Any:
        """What the rule itself remembers from step to step."""
        return ()

    def check(self, levels, shape, cond):
        check_conditions(self, levels, shape, cond)

    def __call__(self, x, level, cond, state, key):
        guided, _, _, state = self.parts(x, level, cond, state, key)
        return guided, state

    def parts(self, x, level, cond, state, key):
        w = strength(self.scale, level, cond, off=self.off)
        states, memory = state
        c, u, states = self.predictions(x, level, cond, states, memory, key)
        guided, memory = self.rule(c, u, w, x, level, memory)
        return only_guided(self.inner, guided, self.unguided(c, u)), c, u, (states, memory)

    def predictions(self, x, level, cond, states, memory, key):
        """(conditional, unconditional, states)."""
        on = self.needs_unconditional(level, memory)
        on = jnp.array(True) if on is None and self.in_turn else on
        return both(self.inner, x, level, cond, self.null, states, key, on)

    def needs_unconditional(self, level: Any, memory: Any) -> Any:
        """Whether the unconditional call is needed: a boolean, or None for always."""
        return active(self.scale, level)

    def rule(self, c: Any, u: Any, w: Any, x: Any, level: Any, memory: Any) -> tuple[Any, Any]:
        """(guided prediction, new memory) from the conditional and the unconditional one at strength w."""
        return c.contrast(u, w, level), memory

    def unguided(self, c: Any, u: Any) -> Any:
        """The prediction that stays in channels which the model does not want guided."""
        return c
