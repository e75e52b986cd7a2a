"""Consistency training and distillation (Song et al. 2023, arXiv 2303.01469, Algorithms 2 and 3): maps to the data.

    n | X(x_t, t, 0) - sg X(x_s, s, 0) |^2,   t, s = 0.999 i / n, 0.999 (i - 1) / n

X is the map, sg stops the gradient. x_s is a step of the teacher's flow from x_t or, without a teacher, x_t with less
of the same noise. At the optimum, for large n, the map takes all points of a trajectory to its end. The target uses the
current parameters, that of the paper their average.
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import normal, pytree, static
from guidance_jax.schedules import RectifiedFlow
from guidance_jax.training.losses import ConditionalLoss


@pytree
class Consistency(ConditionalLoss):
    """Train the `apply` of a `FlowMap` to jump to the data: a loss for `fit`.

    Use the map in `MapSteps(map, fresh=True)`, for a single jump, or in `ThroughMap`. Each sample costs two calls of
    the map, and two of the teacher (Heun's step).

    Attributes:
      apply: apply(params, x, t, s, cond) -> u, called with s = 0.
      teacher: a denoiser on the clock of `RectifiedFlow`, guided or not; None to learn from the data alone.
      null, dropout, labelled: as in `ConditionalLoss`.
      intervals: n, the number of intervals of the clock.

    >>> jump = lambda params, x, t, s, cond: (x - params) / jnp.maximum(t, 1e-3)  # exact for data at one point
    >>> loss = Consistency(jump, labelled=False)
    >>> round(float(loss(2.0, jax.random.key(0), jnp.full(3, 2.0), jnp.int32(0))), 5)
    0.0
    """

    teacher: Any = None
    intervals: int = static(default=100)

    def __call__(self, params: Any, key: Any, x0: Any, label: Any) -> Any:
        level_key, noise_key, dropout_key, model_key = jax.random.split(key, 4)
        h = RectifiedFlow.start / self.intervals
        t = h * jax.random.randint(level_key, (), 1, self.intervals + 1).astype(x0.dtype)
        s = jnp.maximum(t - h, 0)
        flow, cond, eps = RectifiedFlow(), self.condition(dropout_key, label), normal(noise_key, x0)
        x, nearer = flow(t).noise(x0, eps), flow(s).noise(x0, eps)
        if self.teacher is not None:

            def velocity(x, t):
                pred, _ = self.teacher(x, flow(t), cond, self.teacher.init(x), model_key)
                return pred.eps - pred.x0

            v = velocity(x, t)
            end = x - (t - s) * v
            after = jax.lax.cond(s > 0, lambda: velocity(end, s), lambda: v)
            nearer = x - (t - s) * (v + after) / 2

        def clean(params, x, t):
            return x - t * self.ask(params, key, x, t, jnp.zeros_like(t), cond)

        target = jax.lax.stop_gradient(clean(params, nearer, s))
        return self.intervals * jnp.mean((clean(params, x, t) - target) ** 2)
