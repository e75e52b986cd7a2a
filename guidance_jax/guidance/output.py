"""Contrast rules that are not linear, so that it matters which output of the model they are applied to."""

from typing import Any

from guidance_jax import parameterizations
from guidance_jax.core import pytree, static
from guidance_jax.guidance.cfg import CFG
from guidance_jax.parameterizations import Parameterization


@pytree
class OutputRule(CFG):
    """A rule `mix(c, u, scale)` on the outputs of the model in the language of `space`. Keeps x.

    `space` is that of the paper, whatever the model itself speaks, so the parameterization of a model does not matter.
    """

    space: Parameterization = static(default=parameterizations.eps, kw_only=True)

    def combine(self, c, u, w, x, level):
        own, null = (self.space.target(p.x0, p.eps, level) for p in (c, u))
        return c.towards(self.space.predict(self.mix(own, null, w), x, level).x0, level)

    def mix(self, c: Any, u: Any, w: Any) -> Any:
        """The guided output."""
        raise NotImplementedError
