"""Rewards of the point to which a flow map leads (flow-map guidance: FMRG, arXiv 2604.27147; FMTT, 2511.22688).

    log p(y | x_t) ~ r(X(x_t, t, 0))

The map gives the clean sample in which the flow ends. A denoiser's clean estimate is a mean of many clean samples, and
therefore blurred.
"""

from typing import Any

from guidance_jax.core import CLEAN, Guide, Refused, as_guide, converted, pytree
from guidance_jax.models.flow_map import FlowMap


@pytree
class ThroughMap(Guide):
    """Guide noisy samples by a `Guide` of clean ones: `Classifier(model, ThroughMap(reward, flow_map), scale)`.

    Each step makes one call of the map and, for the gradient, one pull-back through it.

    Attributes:
      reward: a `Guide`, or f(x0, level, cond) -> scalar, of clean samples.
      flow: a `FlowMap` of the same flow as the model; it gets the sample's condition.

    Raises:
      Refused: a `flow` that is not a `FlowMap`; samples or conditions that the reward or the map does not take.
    """

    reward: Any = converted(as_guide)
    flow: Any = None

    def check(self, levels, shape, cond):
        if not isinstance(self.flow, FlowMap):
            raise Refused(
                f"ThroughMap needs a FlowMap as `flow`, got {type(self.flow).__name__}; use Reconstruction(...)"
            )
        self.flow.check(levels, shape, cond)
        self.reward.check(levels, shape, cond)

    def log_prob(self, x, level, cond):
        return self.reward.value(self.flow.jump(x, level, CLEAN, cond), CLEAN, cond)
