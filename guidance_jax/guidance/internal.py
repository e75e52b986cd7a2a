"""Internal guidance (Zhou et al. 2025, arXiv 2512.24176): an inner layer gives the weak prediction, in the same call.

D = D_early + scale (D - D_early)
"""

from typing import Any

from guidance_jax.core import Refused, pytree
from guidance_jax.guidance.base import Contrast, only_guided
from guidance_jax.guidance.scales import strength
from guidance_jax.models.two_headed import TwoHeaded


@pytree
class Internal(Contrast):
    """Guide a network by its own early head, as `Autoguidance` does by a weak model. scale 1 is the network.

    Each step makes one network call. The guided prediction still satisfies alpha x0 + sigma eps = x.

    Attributes:
      inner: a `TwoHeaded` network.
      scale: a number, `Window`, `PerClass`, or a function of the level.

    Raises:
      Refused: a network with one head.
    """

    inner: Any
    scale: Any

    def check(self, levels, shape, cond):
        if not isinstance(self.inner, TwoHeaded):
            raise Refused(
                f"Internal needs a TwoHeaded network, got {type(self.inner).__name__}; use Autoguidance for other "
                "networks"
            )
        super().check(levels, shape, cond)

    def parts(self, x, level, cond, state, key):
        good, early = self.inner.heads(x, level, cond)
        guided = good.contrast(early, strength(self.scale, level, cond, off=1.0), level)
        return only_guided(self.inner, guided, good), good, early, state
