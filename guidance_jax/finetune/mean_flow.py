"""MeanFlow (Geng et al. 2025, arXiv 2505.13447): a flow map from its own derivative, or from a teacher.

    | u(x_t, t, s) - sg[ v - (t - s) d/dt u(x_t, t, s) ] |^2,   d/dt along (v, 1, 0)

v is the conditional velocity eps - x0, or the velocity of a teacher at x_t; sg stops the gradient. With a guided
teacher, the map samples CFG in any number of steps. At the optimum u is the average velocity of the flow.
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import normal, pytree, static
from guidance_jax.schedules import RectifiedFlow
from guidance_jax.training.losses import ConditionalLoss


@pytree
class MeanFlow(ConditionalLoss):
    """Train the `apply` of a `FlowMap` as an average velocity: a loss for `fit`.

    Each sample costs one forward-mode derivative of the network and one call of the teacher.

    Attributes:
      apply: apply(params, x, t, s, cond) -> u.
      teacher: a denoiser on the clock of `RectifiedFlow`, guided or not; None to learn from the data alone.
      null, dropout, labelled: as in `ConditionalLoss`.
      equal: the share of samples with s = t, which learn the velocity itself; 0.75 in the paper's best run.
      power: the squared distance is divided by its own (mean + 1e-3)^power; 1 in the paper, 0 for the plain distance.
    """

    teacher: Any = None
    equal: float = static(default=0.25)
    power: float = static(default=0.0)

    def __call__(self, params: Any, key: Any, x0: Any, label: Any) -> Any:
        level_key, noise_key, dropout_key, model_key = jax.random.split(key, 4)
        s, t = jnp.sort(jax.random.uniform(level_key, (2,), x0.dtype))
        s = jnp.where(jax.random.bernoulli(model_key, self.equal), t, s)
        cond, eps = self.condition(dropout_key, label), normal(noise_key, x0)
        level = RectifiedFlow()(t)
        x, v = level.noise(x0, eps), eps - x0
        if self.teacher is not None:
            pred, _ = self.teacher(x, level, cond, self.teacher.init(x), model_key)
            v = jax.lax.stop_gradient(pred.eps - pred.x0)

        def u(x, t):
            return self.ask(params, key, x, t, s, cond)

        own, slope = jax.jvp(u, (x, t), (v, jnp.ones_like(t)))
        distance = jnp.mean((own - jax.lax.stop_gradient(v - (t - s) * slope)) ** 2)
        return distance / jax.lax.stop_gradient((distance + 1e-3) ** self.power)
