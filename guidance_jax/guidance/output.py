"""Contrast rules that are not linear, so that it matters which output of the model they are applied to."""

from typing import Any

from guidance_jax.core import GaussianDiffusion, pytree, static
from guidance_jax.guidance.cfg import CFG
from guidance_jax.models import parameterizations
from guidance_jax.models.parameterizations import Parameterization


@pytree
class OutputRule(CFG):
    """A rule `mix(c, u, scale)` on the outputs of the model in the language of `output`. Keeps x.

    The language is that of the paper, whatever the model itself speaks, so its parameterization does not matter.

    Attributes:
      inner, null, scale, in_turn: as in `CFG`.
      output: the parameterization in which the rule is applied.
    """

    output: Parameterization = static(default=parameterizations.eps, kw_only=True)

    takes = GaussianDiffusion

    def rule(self, c, u, w, x, level, memory):
        own, null = (self.output.target(p.x0, p.eps, level) for p in (c, u))
        return c.towards(self.output.predict(self.mix(own, null, w), x, level).x0, level), memory

    def mix(self, c: Any, u: Any, w: Any) -> Any:
        """The guided output."""
        raise NotImplementedError
