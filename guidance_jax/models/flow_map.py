"""Flow maps: networks of two times that jump along the ODE of rectified flow (MeanFlow, Geng et al. 2025, 2505.13447).

    X(x, t, s) = x - (t - s) u(x, t, s),   u(x, t, t) the velocity eps - x0 itself

Points of another schedule are the flow's at t = sigma / (alpha + sigma), divided by alpha + sigma: its ODE is the same.
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
    """A map from level t to level s, and, with s = t, the denoiser of the flow that it follows. One call for either.

    `kernels.MapSteps` samples by it, in one step or a few, on any schedule; any solver takes it as a velocity;
    `guidance.ThroughMap` asks a reward about where it leads.

    Attributes:
      params: a pytree of arrays.
      apply: apply(params, x, t, s, cond) -> u, the average velocity from t down to s, of one sample or of a batch.
      domain: what it was trained for; without one, nothing is checked.
      batched: as in `Network`.

    Raises:
      Refused: an output of another shape than x; samples or labels that `domain` does not allow.
    """

    params: Any
    apply: Callable = static()
    domain: Domain | None = static(default=None)
    batched: bool = static(default=False)

    def velocity(self, x: Any, t: Any, s: Any, cond: Any) -> Any:
        """u(x, t, s), of the shape of x, a point of the flow; t and s are its clocks."""
        u = call_network(self.apply, self.batched, self.params, x, t, s, network_condition(self.domain, cond))
        if jnp.shape(u) != jnp.shape(x):
            raise Refused(f"of a sample of shape {jnp.shape(x)} the flow map made a velocity of {jnp.shape(u)}")
        return unless_unknown(self.domain, cond, u)

    def jump(self, x: Any, t: Level, s: Level, cond: Any) -> Any:
        """X(x, t, s): where the flow takes x from level t to level s."""
        (x, begin), end = on_flow(x, t), s.sigma / (s.alpha + s.sigma)
        return (s.alpha + s.sigma) * (x - (begin - end) * self.velocity(x, begin, end, cond))

    def __call__(self, x, level, cond, state, key):
        x, t = on_flow(x, level)
        u = self.velocity(x, t, t, cond)
        return Prediction(x - t * u, x + (1 - t) * u), state


def on_flow(x: Any, level: Level) -> tuple[Any, Any]:
    """(the point of rectified flow that x at `level` is, its clock)."""
    norm = level.alpha + level.sigma
    return x / norm, level.sigma / norm
