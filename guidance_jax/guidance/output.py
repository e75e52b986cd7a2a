"""Base class of nonlinear contrast rules, whose result depends on the model output that they are applied to."""

from typing import Any

import jax

from guidance_jax.core import GaussianDiffusion, pytree, static
from guidance_jax.guidance.conditions import TwoConditions
from guidance_jax.guidance.scales import when
from guidance_jax.models import parameterizations
from guidance_jax.models.parameterizations import Eps, Parameterization, Score


@pytree
class OutputRule(TwoConditions):
    """Base class: apply the rule `mix(c, u, scale)` to both predictions, in the parameterization `output`.

    Predictions of a model with another parameterization are converted first. At a level without signal (alpha = 0) the
    limit is taken. The guided prediction still satisfies alpha x0 + sigma eps = x.

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

        def limit():  # outputs ~ x - alpha x0 and mix(x, x) = x: the derivative of mix gives the guided x0
            return jax.jvp(lambda c, u: self.mix(c, u, w), (x, x), (c.x0, u.x0))[1]

        noise = isinstance(self.output, Eps | Score)
        return c.towards(when(level.alpha == 0, limit, estimate) if noise else estimate(), level), memory

    def mix(self, c: Any, u: Any, w: Any) -> Any:
        """Return the guided output of the conditional output `c` and the unconditional output `u` at scale `w`."""
        raise NotImplementedError
