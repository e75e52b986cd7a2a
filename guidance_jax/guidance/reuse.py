"""Reuse of a gradient over several steps (Dinh et al. 2024, arXiv 2408.11194, "Compress Guidance").

g of step i = g of step (every * floor(i / every))
"""

from typing import Any

import jax.numpy as jnp

from guidance_jax.core import GaussianDiffusion, Refused, pytree, static
from guidance_jax.guidance.base import Guidance
from guidance_jax.guidance.gradient import GradientGuidance
from guidance_jax.guidance.scales import active, strength, when


@pytree
class Reuse(Guidance):
    """Compute the gradient of another method at every `every`-th step, and reuse it at the steps between.

    every=1 is the method itself. Steps are counted from the one where its scale becomes active, so a `Window` starts
    with a fresh gradient. The guided prediction still satisfies alpha x0 + sigma eps = x.

    Attributes:
      inner: any guidance in score form: `Classifier`, `Reconstruction`, `LGD`, `PiGDM`, `TMPD`, `MMPS`.
      every: the number of steps that share a gradient, 1 or more.

    Raises:
      Refused: guidance that is not a gradient in score form; `every` below 1.
    """

    inner: Any
    every: int = static(default=4)

    takes = GaussianDiffusion

    def __post_init__(self):
        if self.every < 1:
            raise Refused(
                f"Reuse keeps a gradient for at least one step, got every={self.every}; write Reuse(guide, 4)"
            )

    def check_inner(self):
        if not isinstance(self.inner, GradientGuidance) or type(self.inner).__call__ is not GradientGuidance.__call__:
            raise Refused(
                f"Reuse needs a gradient in score form, got {type(self.inner).__name__}; use Classifier, "
                "Reconstruction, LGD, PiGDM, TMPD or MMPS"
            )
        super().check_inner()

    def init(self, x):
        return self.inner.init(x), jnp.zeros_like(x), jnp.zeros((), jnp.int32)

    def __call__(self, x, level, cond, state, key):
        inner, held, count = state
        pred, gradient, inner = self.inner.predict_and_gradient(x, level, cond, inner, key)
        w, on = strength(self.inner.scale, level, cond, off=0.0), active(self.inner.scale, level)
        fresh = count % self.every == 0
        held = when(fresh if on is None else fresh & on, gradient, lambda: held)
        count = count + 1 if on is None else jnp.where(on, count + 1, 0)
        off = (w == 0) if on is None else ~on  # at a level without signal the factor below is infinite
        shift = when(off, lambda: jnp.zeros_like(x), lambda: level.sigma**2 / level.alpha * w * held)
        return pred.towards(pred.x0 + shift, level), (inner, held, count)
