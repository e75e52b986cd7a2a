"""Few steps by a flow map: along the flow, or to the data and back (consistency models, Song et al. 2023, 2303.01469).

x_s = X(x_t, t, s),   with `fresh`   x_s = alpha_s X(x_t, t, 0) + sigma_s z
"""

from typing import Any

from guidance_jax.core import CLEAN, GaussianDiffusion, Kernel, Refused, normal, pytree, static
from guidance_jax.kernels.reverse import Carry
from guidance_jax.models.flow_map import FlowMap


@pytree
class MapSteps(Kernel):
    """Sample by one call of a `FlowMap` per step; one step may be enough.

    Attributes:
      model: the flow map.
      fresh: whether to jump to the data and add fresh noise, as consistency models sample; if False, follow the flow.

    Raises:
      Refused: a model that is not a flow map, guided ones included: guidance of velocities does not guide jumps.
    """

    model: Any
    fresh: bool = static(default=False)

    takes = GaussianDiffusion

    def init(self, x):
        return Carry(x, (), ())

    def check(self, levels, shape, cond):
        if not isinstance(self.model, FlowMap):
            raise Refused(
                f"MapSteps needs a FlowMap, got {type(self.model).__name__}; train one (MeanFlow) or write "
                "Reverse(model, solver)"
            )
        self.model.check(levels, shape, cond)

    def __call__(self, carry, t, s, cond, key):
        if not self.fresh:
            return carry._replace(x=self.model.jump(carry.x, t, s, cond))
        clean = self.model.jump(carry.x, t, CLEAN, cond)
        return carry._replace(x=s.noise(clean, normal(key, clean)))
