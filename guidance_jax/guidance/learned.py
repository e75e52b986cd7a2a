"""Guidance that a network has learned: the scale is one of its inputs, and each step makes one call.

D(x_t, c, scale), trained to be D_u + scale (D_c - D_u): `Distillation` (arXiv 2210.03142), `GuidanceFree` (2501.15420)
"""

import dataclasses
from typing import Any

import jax.numpy as jnp

from guidance_jax.core import Refused, pytree
from guidance_jax.guidance.base import Guidance
from guidance_jax.guidance.scales import strength


@pytree
class Learned(Guidance):
    """Call a network that takes the guidance scale as an input.

    The scale may change from level to level and from class to class. Each step makes one call. At scale 1 this is the
    conditional model, as well as the network has learned it. The prediction still satisfies alpha x0 + sigma eps = x.

    Attributes:
      inner: a `Network`, or another denoiser with a field `scale` that its function reads.
      scale: a number, `Window` (1 outside), `PerClass`, or a function of the level.

    Raises:
      Refused: a denoiser without a field `scale`.
    """

    inner: Any
    scale: Any

    def check(self, levels, shape, cond):
        fields = {f.name for f in dataclasses.fields(self.inner)} if dataclasses.is_dataclass(self.inner) else set()
        if "scale" not in fields:
            raise Refused(
                f"Learned needs a network with the scale as an input, got {type(self.inner).__name__}; train one with "
                "Distillation or GuidanceFree, or write CFG(...)"
            )
        self.at_strength(levels.at(0), cond).check(levels, shape, cond)

    def init(self, x):
        return self.inner.init(x)

    def __call__(self, x, level, cond, state, key):
        return self.at_strength(level, cond)(x, level, cond, state, key)

    def at_strength(self, level: Any, cond: Any) -> Any:
        """Return the network with its `scale` set to the strength at `level`."""
        return dataclasses.replace(self.inner, scale=jnp.asarray(strength(self.scale, level, cond, off=1.0)))
