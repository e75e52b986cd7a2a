"""Autoguidance (Karras et al. 2024, arXiv 2406.02507, eq. 4): a bad version of the model guides the good one.

D = D_weak + scale (D - D_weak)
"""

from typing import Any

from guidance_jax.core import Denoiser, Refused, need, pytree
from guidance_jax.guidance.base import Contrast, only_guided
from guidance_jax.guidance.scales import active, strength, when


@pytree
class Autoguidance(Contrast):
    """Guide a model by its difference from a weak model with the same condition: D_weak + scale (D - D_weak).

    scale 1 is the good model alone. Each step calls both models; outside a `Window` the weak call is skipped. For
    images and vectors the guided prediction still satisfies alpha x0 + sigma eps = x.

    Attributes:
      inner: the good model.
      weak: any second denoiser of the same space: a smaller network, an earlier checkpoint.
      scale: a number, `Window`, `PerClass`, or a function of the level.

    Raises:
      Refused: a weak model of another space.
    """

    inner: Any
    weak: Any
    scale: Any

    def init(self, x):
        return self.inner.init(x), self.weak.init(x)

    def check(self, levels, shape, cond):
        super().check(levels, shape, cond)
        check_weak(self, self.weak)
        self.weak.check(levels, shape, cond)

    def parts(self, x, level, cond, state, key):
        w = strength(self.scale, level, cond, off=1.0)
        good, first = self.inner(x, level, cond, state[0], key)
        weak, second = when(
            active(self.scale, level),
            lambda: self.weak(x, level, cond, state[1], key),
            lambda: (good, state[1]),
        )
        return only_guided(self.inner, self.rule(good, weak, w, level), good), good, weak, (first, second)

    def rule(self, good: Any, weak: Any, w: Any, level: Any) -> Any:
        """Return the guided prediction of the `good` and the `weak` one at scale `w`."""
        return good.contrast(weak, w, level)


def check_weak(owner: Any, weak: Any) -> None:
    """Raise `Refused` unless `weak` is a denoiser of the space of `owner.inner`."""
    need(owner, weak, Denoiser, "the weak model")
    if weak.space != owner.inner.space:
        raise Refused(
            f"{type(owner).__name__} needs two models of the same space, got {owner.inner.space} and {weak.space}; "
            "use a weaker version of the same model"
        )
