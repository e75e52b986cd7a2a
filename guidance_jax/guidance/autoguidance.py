"""Autoguidance (Karras et al. 2024, arXiv 2406.02507, eq. 4): a bad version of the model guides the good one.

D = D_weak + scale (D - D_weak)
"""

from typing import Any

from guidance_jax.core import check, pytree
from guidance_jax.guidance.base import Guidance, active, strength, when


@pytree
class Autoguidance(Guidance):
    """D_weak + scale (D - D_weak), same condition for both: scale 1 is the good model alone. Keeps x.

    `weak` is any second denoiser: a smaller network, an earlier checkpoint. One call of each; outside a `Window`
    the weak one is skipped.
    """

    inner: Any
    weak: Any
    scale: Any

    def init(self, x):
        return self.inner.init(x), self.weak.init(x)

    def check(self, levels, shape, cond):
        check(self.inner, levels, shape, cond)
        check(self.weak, levels, shape, cond)

    def __call__(self, x, level, cond, state, key):
        w = strength(self.scale, level, cond, off=1.0)
        good, first = self.inner(x, level, cond, state[0], key)
        weak, second = when(
            active(self.scale, level),
            lambda: self.weak(x, level, cond, state[1], key),
            lambda: (good, state[1]),
        )
        return self.combine(good, weak, w, level), (first, second)

    def combine(self, good, weak, w, level):
        """The guided prediction from the good and the weak one."""
        return good.contrast(weak, w, level)
