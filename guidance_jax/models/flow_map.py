"""Flow maps: networks of two times that jump along the ODE of rectified flow (MeanFlow, Geng et al. 2025, 2505.13447).

    X(x, t, s) = x - (t - s) u(x, t, s),   u(x, t, t) the velocity eps - x0 itself

A point x of another schedule is the point x / (alpha + sigma) of the flow at t = sigma / (alpha + sigma). The ODE is
the same.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from guidance_jax.core import Denoiser, Level, Prediction, Refused, pytree, static
from guidance_jax.models.batching import call_network
from guidance_jax.models.domain import Domain, network_condition, unless_unknown
from guidance_jax.models.network import Parametrized


@pytree
class FlowMap(Parametrized, Denoiser):
    """A network that jumps from level t to level s. With s = t it is the denoiser of its flow. One network call.

    `kernels.MapSteps` samples with it in one step or a few, on any schedule. Any solver takes it as a denoiser.
    `guidance.ThroughMap` evaluates a reward at the end of its jump.

    Attributes:
      params: a pytree of arrays.
      apply: apply(params, x, t, s, cond) -> u, the average velocity from t down to s, of one sample or of a batch.
      domain: what it was trained for; with None, nothing is checked.
      batched: whether `apply` takes a batch axis in front of x, t, s and cond.

    Raises:
      Refused: an output of another shape than x; samples or labels that `domain` does not allow.
    """

    params: Any
    apply: Callable = static()
    domain: Domain | None = static(default=None)
    batched: bool = static(default=False)

    def velocity(self, x: Any, t: Any, s: Any, cond: Any) -> Any:
        """Return u(x, t, s) in the shape of x, for a point x of the flow and its times t and s."""
        u = call_network(self.apply, self.batched, self.params, x, t, s, network_condition(self.domain, cond))
        if jnp.shape(u) != jnp.shape(x):
            raise Refused(
                f"for a sample of shape {jnp.shape(x)} the flow map returned a velocity of shape {jnp.shape(u)}"
            )
        return unless_unknown(self.domain, cond, u)

    def jump(self, x: Any, t: Level, s: Level, cond: Any) -> Any:
        """Return X(x, t, s), the point to which the flow takes x from level t to level s."""
        (x, begin), end = on_flow(x, t), s.sigma / (s.alpha + s.sigma)
        return (s.alpha + s.sigma) * (x - (begin - end) * self.velocity(x, begin, end, cond))

    def __call__(self, x, level, cond, state, key):
        x, t = on_flow(x, level)
        u = self.velocity(x, t, t, cond)
        return Prediction(x - t * u, x + (1 - t) * u), state


def on_flow(x: Any, level: Level) -> tuple[Any, Any]:
    """Return (x as a point of rectified flow, its time t there) for x at `level`."""
    norm = level.alpha + level.sigma
    return x / norm, level.sigma / norm
