"""Reverse chains with everything that fine-tuning to a reward needs of them: what a loss sees is one sample's chain."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import Denoiser, Guide, Level, Refused, Stochastic, as_guide, converted, need, pytree


@pytree
class Rewarded:
    """A loss for `fit` that draws its own samples: of the data it looks at the labels, and at the shape, alone.

    Attributes:
      model: what is tuned, a denoiser with a field `params`.
      solver: one with a transition; what the reward is traded against is the chain that it makes of the model.
      reward: a `Guide`, or f(x0, level, cond) -> scalar, of clean samples: the same that guides.
      levels: n + 1 levels, n steps.
      scale: of the reward, 1 / beta: the aim is p(x) exp(scale r(x)).

    Raises:
      Refused: a model without parameters, or that remembers, since a step here is asked for by itself; a solver without
        a transition; no reward.
    """

    model: Any
    solver: Any
    reward: Any = converted(as_guide)
    levels: Level
    scale: Any = 1.0

    def __post_init__(self):
        name = type(self).__name__
        need(self, self.model, Denoiser, "the first argument")
        need(self, self.solver, Stochastic, "the second argument")
        need(self, self.reward, Guide, "the reward")
        if "params" not in {f.name for f in dataclasses.fields(self.model)}:
            raise Refused(f"{name} tunes a model with a field params, got {type(self.model).__name__}; tune a Network")

    @property
    def steps(self) -> tuple[Level, Level]:
        """(t, s) of every step, stacked."""
        return self.levels.at(slice(None, -1)), self.levels.at(slice(1, None))

    def tune(self, params: Any) -> Any:
        """The model with these parameters."""
        return dataclasses.replace(self.model, params=params)

    def start(self, key: Any, x0: Any) -> Any:
        """What a chain of samples like x0 starts from."""
        x = self.model.start(key, self.levels, jnp.shape(x0))
        if jax.tree.leaves(self.model.init(x)):
            name = type(self).__name__
            raise Refused(f"{name} tunes models without a memory, got {type(self.model).__name__}, which has one")
        return x

    def transition(self, model: Any, x: Any, t: Level, s: Level, cond: Any, key: Any) -> Any:
        """p(x_s | x_t) under `model`."""
        return self.solver.transition(model(x, t, cond, model.init(x), key)[0], t, s)

    def step(self, model: Any, x: Any, inputs: tuple, cond: Any) -> Any:
        """x_s, drawn; `inputs` are (t, s, key)."""
        t, s, key = inputs
        model_key, noise_key = jax.random.split(key)
        return self.transition(model, x, t, s, cond, model_key).draw(noise_key)

    def run(self, model: Any, key: Any, x0: Any, cond: Any) -> tuple[Any, Any]:
        """(clean sample, x at every level but the last) of a chain that nothing is differentiated through."""
        model = jax.lax.stop_gradient(model)
        start_key, step_key = jax.random.split(key)
        inputs = (*self.steps, jax.random.split(step_key, len(self.levels.t) - 1))
        return jax.lax.scan(lambda x, i: (self.step(model, x, i, cond), x), self.start(start_key, x0), inputs)

    def value(self, x: Any, cond: Any) -> Any:
        """The scaled reward of a clean sample."""
        return self.scale * self.reward.value(x, self.levels.at(-1), cond)
