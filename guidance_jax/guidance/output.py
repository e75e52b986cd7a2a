"""Contrast rules that are not linear, so that it matters which output of the model they are applied to."""

from typing import Any

import jax

from guidance_jax.core import GaussianDiffusion, pytree, static
from guidance_jax.guidance.conditions import TwoConditions
from guidance_jax.guidance.scales import when
from guidance_jax.models import parameterizations
from guidance_jax.models.parameterizations import Eps, Parameterization, Score


@pytree
class OutputRule(TwoConditions):
    """A rule `mix(c, u, scale)` on the outputs of the model in the language of `output`. Keeps x.

    The language is that of the paper, whatever the model itself speaks, so its parameterization does not matter. At a
    level without signal (alpha = 0) the limit is taken.

    Attributes:
      inner, null, scale, in_turn: as in `TwoConditions`.
      output: the parameterization in which the rule is applied.
    """

    output: Parameterization = static(default=parameterizations.eps, kw_only=True)

    takes = GaussianDiffusion

    def rule(self, c, u, w, x, level, memory):
        def estimate():
            own, null = (self.output.target(p.x0, p.eps, level) for p in (c, u))
            return self.output.predict(self.mix(own, null, w), x, level).x0

        def limit():  # outputs are proportional to x - alpha x0, and so is the mix of two equal ones
            return jax.jvp(lambda c, u: self.mix(c, u, w), (x, x), (c.x0, u.x0))[1]

        noise = isinstance(self.output, Eps | Score)
        return c.towards(when(level.alpha == 0, limit, estimate) if noise else estimate(), level), memory

    def mix(self, c: Any, u: Any, w: Any) -> Any:
        """The guided output."""
        raise NotImplementedError
