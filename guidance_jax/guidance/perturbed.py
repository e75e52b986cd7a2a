"""Guidance away from a perturbed model, with CFG or alone: PAG, skipped layers, smoothed energy.

    D = D_u + scale (D_c - D_u) + weak_scale (D_c - D_weak)

PAG (Ahn et al. 2024, arXiv 2403.17377): the weak model's attention maps are identities. Skipped layers (Hyung et al.
2024, 2411.18664): its middle is left out. SEG (Hong 2024, 2408.00760): its attention queries are blurred.
"""

from typing import Any

from guidance_jax.core import check, pytree
from guidance_jax.guidance.base import active, only_guided, pair, strength, when
from guidance_jax.guidance.cfg import CFG


@pytree
class Perturbed(CFG):
    """CFG plus a contrast with `weak`, for example `perturbed(model, attention=1.0)`. Keeps x.

    One network call with both conditions and one of the weak model, skipped outside the window of `weak_scale`. scale 1
    asks for the contrast with the weak model only; then `Autoguidance(model, weak, 1 + weak_scale)` is the same and
    saves the unconditional call.
    """

    weak: Any = None
    weak_scale: Any = 0.0

    def memory(self, x):
        return self.weak.init(x)

    def check(self, levels, shape, cond):
        if self.weak is None:
            raise ValueError("Perturbed needs a weak model, got None; write weak=perturbed(model, attention=1.0)")
        super().check(levels, shape, cond)
        check(self.weak, levels, shape, cond)

    def __call__(self, x, level, cond, state, key):
        inner, memory = state
        c, u, inner = pair(self.inner, x, level, cond, self.null, inner, key, active(self.scale, level))
        weak, memory = when(
            active(self.weak_scale, level), lambda: self.weak(x, level, cond, memory, key), lambda: (c, memory)
        )
        w, v = strength(self.scale, level, cond, off=1.0), strength(self.weak_scale, level, cond, off=0.0)
        guided = c.towards(u.x0 + w * (c.x0 - u.x0) + v * (c.x0 - weak.x0), level)
        return only_guided(self.inner, guided, c), (inner, memory)
