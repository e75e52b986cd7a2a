"""Guidance through the cache of a flow: PPLM (Dathathri et al. 2020, arXiv 1912.02164, section 3.2) for patches.

    delta <- delta + rate g / |g|^gamma,   g = grad [ scale log p(a | b, exp(a)) - kl KL(N_delta || N_0) ]

with N the normal distribution of the next patch. delta is added to the cache; it starts at zero for every patch.
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import Normal, Refused, converted, function, norm, pytree, quotient, scalar, static
from guidance_jax.core.contracts import check_arguments
from guidance_jax.flows.flow import AutoregressiveFlow
from guidance_jax.flows.patches import Patches
from guidance_jax.guidance.base import Guidance
from guidance_jax.guidance.scales import strength


@pytree
class CacheGuidance(Guidance):
    """Change a flow's cache by gradient steps, anew for every patch; scale 0 (or rate 0) is the flow.

    Each patch costs `steps` + 2 calls of the flow and `steps` gradients through one patch of it.

    Attributes:
      inner: an `AutoregressiveFlow`, whose cache moves.
      attribute: attribute(mean (C,), log_std (C,), cond) -> scalar, log p(a | the next patch's distribution).
      scale: the factor of the attribute: a number, or a function of the level.
      rate: the length of a step.
      steps: the number of steps per patch.
      gamma: the power of the norm that a gradient is divided by; 1 makes every step as long as `rate`.
      kl: the weight of the divergence from the unguided flow, per nat.

    Raises:
      Refused: a model other than an `AutoregressiveFlow`; an attribute with other arguments.
    """

    inner: Any
    attribute: Any = converted(function)
    scale: Any = 1.0
    rate: Any = 0.03
    kl: Any = 0.01
    gamma: Any = 1.0
    steps: int = static(default=3)

    takes = Patches

    def __post_init__(self):
        check_arguments(self, self.attribute, "mean, log_std, cond")

    def check(self, levels, shape, cond):
        super().check(levels, shape, cond)
        if not isinstance(self.inner, AutoregressiveFlow):
            raise Refused(f"CacheGuidance changes the cache of an AutoregressiveFlow, got {type(self.inner).__name__}")

    def __call__(self, x, level, cond, state, key):
        pred, new = self.inner(x, level, cond, state, key)
        w = strength(self.scale, level, cond, off=0.0)

        def steer(delta):
            return self.inner(x, level, cond, jax.tree.map(jnp.add, state, delta), key)[0]

        def objective(delta):
            other = steer(delta)
            value = scalar(self.attribute(other.mean, other.log_std, cond), "the attribute of CacheGuidance")
            moved, own = (Normal(p.mean, jnp.exp(p.log_std)) for p in (other, pred))
            return w * value - self.kl * moved.divergence(own)

        def step(delta, _):
            g = jax.tree.map(lambda a: quotient(a, norm(a) ** self.gamma), jax.grad(objective)(delta))
            return jax.tree.map(lambda d, a: d + self.rate * jnp.where(w == 0, 0, a), delta, g), None

        delta, _ = jax.lax.scan(step, jax.tree.map(jnp.zeros_like, state), None, length=self.steps)
        return steer(delta), new
