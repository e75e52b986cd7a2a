"""Frequency-decoupled guidance (Sadat et al. 2025, arXiv 2506.19713, section 4): one scale for coarse, one for fine.

    D = D_u + low L(D_c - D_u) + scale (I - L)(D_c - D_u)

where L is a low-pass filter. The paper's Laplacian pyramid is linear, and with two bands it has this form.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import GaussianDiffusion, Refused, pytree, static
from guidance_jax.guidance.conditions import TwoConditions
from guidance_jax.guidance.scales import active, strength


def coarse(x: Any) -> Any:
    """Halve the resolution of an image (H, W, C) by means over 2 x 2 pixels; restore it by linear interpolation."""
    if x.ndim != 3 or x.shape[0] % 2 or x.shape[1] % 2:
        raise Refused(
            f"coarse takes images (H, W, C) with even sides, got {x.shape}; pass your own filter, FDG(..., lowpass=f)"
        )
    h, w, c = x.shape
    small = jnp.mean(x.reshape(h // 2, 2, w // 2, 2, c), (1, 3))
    return jax.image.resize(small, x.shape, "linear")


@pytree
class FDG(TwoConditions):
    """Guide like CFG with `scale` on the fine detail and `low` on the part that the linear filter `lowpass` keeps.

    low = scale is CFG, whatever the filter is. For more bands, pass a `lowpass` that weights them itself. `scale` and
    `low` have separate windows: outside that of `scale`, the fine detail is the conditional model's, and `low` still
    acts. The guided prediction still satisfies alpha x0 + sigma eps = x.

    Attributes:
      inner, null, in_turn: as in `TwoConditions`.
      scale: the strength on the fine detail.
      low: the strength on the coarse part: a number, `Window` or a function of the level.
      lowpass: a linear filter of one sample; the default takes images of even sides.

    Raises:
      Refused: as `CFG`; samples that `lowpass` cannot filter.
    """

    low: Any = 1.0
    lowpass: Callable = static(default=coarse)

    takes = GaussianDiffusion
    aims_at_power = False

    def needs_unconditional(self, level, memory):
        fine, coarse = active(self.scale, level), active(self.low, level)
        return None if fine is None or coarse is None else fine | coarse

    def rule(self, c, u, w, x, level, memory):
        difference = c.x0 - u.x0
        low = self.lowpass(difference)
        base = strength(self.low, level, None, off=1.0)
        return c.towards(u.x0 + base * low + w * (difference - low), level), memory
