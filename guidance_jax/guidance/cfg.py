"""Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598, eq. 6).

    D = D_u + scale (D_c - D_u)

The same combination of x0, eps, scores or velocities gives the same result, since x is fixed. For tokens CFG combines
log p and normalises per position: D-CFG (Schiff et al. 2024, arXiv 2412.10193). For text it combines logits.
"""

from typing import Any

from guidance_jax.core import pytree
from guidance_jax.guidance.conditions import TwoConditions


@pytree
class CFG(TwoConditions):
    """Guide by the difference of the conditional and the unconditional prediction: D_u + scale (D_c - D_u).

    scale 1 is the conditional model, 0 the unconditional one. For images and vectors the guided prediction still
    satisfies alpha x0 + sigma eps = x. Each step makes one network call with both conditions. Outside a `Window` the
    scale is 1 and the unconditional call is skipped.

    Attributes:
      inner, null, scale, in_turn: as in `TwoConditions`.

    Raises:
      Refused: no condition or no null condition, or a condition that the model does not know.
    """

    @classmethod
    def from_weight(cls, inner: Any, null: Any, weight: Any, **fields: Any) -> "CFG":
        """Return `CFG` with Ho & Salimans' weight w, (1 + w) D_c - w D_u: weight 0 is the conditional model."""
        return cls(inner, null, 1 + weight, **fields)

    @classmethod
    def from_gamma(cls, inner: Any, null: Any, gamma: Any, **fields: Any) -> "CFG":
        """Return `CFG` with GLIDE's gamma, (1 - gamma) D_u + gamma D_c: the same number as `scale`."""
        return cls(inner, null, gamma, **fields)

    def rule(self, c, u, w, x, level, memory):
        return c.contrast(u, w, level), memory
