"""Reverse chains with what fine-tuning to a reward needs of them. A loss sees the chain of one sample."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import Denoiser, Guide, Level, Refused, Stochastic, as_guide, converted, need, pytree


@pytree
class Rewarded:
    """Base class of losses for `fit` that draw their own samples. They use only the labels and the shape of the data.

    Attributes:
      model: the model that is tuned, a denoiser with a field `params`.
      solver: a solver with a transition. The reward is traded against the chain p(x) of model and solver.
      reward: a `Guide` of clean samples, or f(x0, level, cond) -> scalar, as for guidance.
      levels: n + 1 levels, for n steps.
      scale: the factor of the reward, 1 / beta: the target is p(x) exp(scale r(x)).

    Raises:
      Refused: a model without `params`, or with a state, since each step is computed by itself; a solver without a
        transition; no reward.
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
            raise Refused(f"{name} needs a model with a field params, got {type(self.model).__name__}; tune a Network")

    @property
    def steps(self) -> tuple[Level, Level]:
        """The levels (t, s) of every step, stacked."""
        return self.levels.at(slice(None, -1)), self.levels.at(slice(1, None))

    def tune(self, params: Any) -> Any:
        """Return the model with these parameters."""
        return dataclasses.replace(self.model, params=params)

    def start(self, key: Any, x0: Any) -> Any:
        """Draw the start of a chain of samples with the shape of x0."""
        x = self.model.start(key, self.levels, jnp.shape(x0))
        if jax.tree.leaves(self.model.init(x)):
            name = type(self).__name__
            raise Refused(f"{name} tunes models without a state, got {type(self.model).__name__}, which has one")
        return x

    def transition(self, model: Any, x: Any, t: Level, s: Level, cond: Any, key: Any) -> Any:
        """Return p(x_s | x_t) under `model`."""
        return self.solver.transition(model(x, t, cond, model.init(x), key)[0], t, s)

    def step(self, model: Any, x: Any, inputs: tuple, cond: Any) -> Any:
        """Draw x_s; `inputs` are (t, s, key)."""
        t, s, key = inputs
        model_key, noise_key = jax.random.split(key)
        return self.transition(model, x, t, s, cond, model_key).draw(noise_key)

    def run(self, model: Any, key: Any, x0: Any, cond: Any) -> tuple[Any, Any]:
        """Draw a chain without gradients. Return (clean sample, x at every level but the last)."""
        model = jax.lax.stop_gradient(model)
        start_key, step_key = jax.random.split(key)
        inputs = (*self.steps, jax.random.split(step_key, len(self.levels.t) - 1))
        return jax.lax.scan(lambda x, i: (self.step(model, x, i, cond), x), self.start(start_key, x0), inputs)

    def value(self, x: Any, cond: Any) -> Any:
        """Return the scaled reward of a clean sample."""
        return self.scale * self.reward.value(x, self.levels.at(-1), cond)
