"""TarFlow's guidance (Zhai et al. 2024, arXiv 2412.06329, section 2.5): the parameters of a step are extrapolated.

    a' = a_weak + w (a - a_weak),   b' = b_weak + w (b - b_weak),   w = 1 + (scale - 1) (i + 1) / (T - 1) if annealed

The published strength is scale - 1. This rule has no target distribution. The product of the two normal distributions,
which STARFlow takes, is `CFG` or `Autoguidance`.
"""

import dataclasses

import jax.numpy as jnp

from guidance_jax.core import Refused, pytree, static
from guidance_jax.flows.patches import Patches
from guidance_jax.guidance.autoguidance import Autoguidance


@pytree
class AffineGuidance(Autoguidance):
    """Extrapolate the log-scale and the shift of an autoregressive flow's steps, from `weak` towards `inner`.

    scale 1 is `inner`; scale 0 is `weak`, if both parameters are extrapolated and `annealed` is False. One call of each
    flow per patch.

    Attributes:
      inner: the flow, called with the condition.
      weak: `Unconditional(flow, null)`; for an unconditional flow, the same flow at another attention temperature:
        `dataclasses.replace(flow, temperature=1.3)`.
      scale: a number, `Window`, `PerClass`, or a function of the level.
      annealed: whether the strength grows along the sequence, from almost 1 to `scale`.
      what: the parameters that are extrapolated: "a" (the log-scale), "b" (the shift) or "ab" (both).

    Raises:
      Refused: other models than flows; another `what`.
    """

    annealed: bool = static(default=False)
    what: str = static(default="ab")

    takes = Patches

    def __post_init__(self):
        if self.what not in ("a", "b", "ab"):
            raise Refused(f'the parameters to extrapolate must be "a", "b" or "ab", got {self.what!r}')

    def rule(self, good, weak, w, level):
        if self.annealed:
            patches = len(good.x)
            _, i, _ = good.space.place(level, patches)
            w = 1 + (w - 1) * (i + 1) / (patches - 1)

        def move(own, other):
            return jnp.where(w == 1, own, other + w * (own - other))

        mean = move(good.mean, weak.mean) if "b" in self.what else good.mean
        log_std = move(good.log_std, weak.log_std) if "a" in self.what else good.log_std
        return dataclasses.replace(good, mean=mean, log_std=log_std)
