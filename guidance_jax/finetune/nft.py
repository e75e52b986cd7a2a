"""DiffusionNFT (Zheng et al. 2025, arXiv 2509.16117): good and bad samples contrasted in the forward process.

    r | (1 - beta) old + beta output - target |^2 + (1 - r) | (1 + beta) old - beta output - target |^2

r in [0, 1] is the probability that a sample is good. The minimum is old + (2 / beta) E[r | x_t] (D_good - D_old):
guidance towards the good samples, weighed by their probability. At every level that is the score of
p_t(x_t) exp((2 / beta) E[r | x_t]). These densities are not the noisy versions of one tilted density, so that samples
only come near p exp(2 r / beta).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import CLEAN, as_guide, converted, normal, pytree, static
from guidance_jax.models.parameterizations import Parameterization
from guidance_jax.schedules import Schedule
from guidance_jax.training.losses import draw, training_options


@pytree
class DiffusionNFT:
    """Tune a model on samples that the old model drew, by contrasting good and bad ones: a loss for `fit`.

    The samples may come from any solver, and no gradient goes through a chain. Each sample costs two calls of the
    network.

    Attributes:
      old: the parameters of the model that drew the data. Draw new data in every round.
      reward: a `Guide`, or f(x0, level, cond) -> r in [0, 1]; other values are clipped.
      apply, schedule, parameterization: as in `Denoising`.
      beta: beta in the formula; a smaller one tilts more.
    """

    old: Any
    reward: Any = converted(as_guide)
    apply: Callable = static()
    schedule: Schedule = static()
    parameterization: Parameterization = static()
    beta: Any = 1.0

    def __call__(self, params: Any, key: Any, x0: Any, label: Any) -> Any:
        level_key, noise_key = jax.random.split(key)
        level, eps = draw(level_key, self.schedule), normal(noise_key, x0)
        inputs = self.parameterization.inputs(level.noise(x0, eps), level)
        target = self.parameterization.target(x0, eps, level)
        old, new = (
            self.apply(given, *inputs, label, **training_options(self.apply, key))
            for given in (jax.lax.stop_gradient(self.old), params)
        )
        r = jnp.clip(self.reward.value(x0, CLEAN, label), 0.0, 1.0)
        good, bad = old + self.beta * (new - old), old - self.beta * (new - old)
        return jnp.mean(r * (good - target) ** 2 + (1 - r) * (bad - target) ** 2)
