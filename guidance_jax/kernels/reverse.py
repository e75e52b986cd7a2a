"""The plain reverse transition: call the denoiser, then step with the solver."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax

from guidance_jax.core import (
    Denoiser,
    Kernel,
    Level,
    Refused,
    Solver,
    Space,
    Stochastic,
    check_space,
    need,
    pytree,
)
from guidance_jax.guidance.scales import check_scales


class Carry(NamedTuple):
    """What one sample hands from step to step: x, the state of the model and the history of the solver."""

    x: Any
    model_state: Any
    solver_state: Any


def evaluator(model: Denoiser, cond: Any, state: Any, key: Any) -> Callable[[Any, Level], Any]:
    """Return `evaluate(x, level)` for the further stages of a solver; they do not change the state of the model."""
    return lambda x, level: model(x, level, cond, state, key)[0]


class Step:
    """Base class of kernels and moves with a `model` and a `solver` that go together. Start and space are the model's.

    `weighs` says that a class needs a transition of positive variance from the solver; without one it would do nothing.
    """

    model: Any
    solver: Any
    takes: ClassVar[type[Space]] = Space
    weighs: ClassVar[bool] = False

    @property
    def space(self) -> Any:
        return self.model.space

    def start(self, key: Any, levels: Level, shape: tuple[int, ...]) -> Any:
        return self.model.start(key, levels, shape)

    def check(self, levels: Level, shape: tuple[int, ...], cond: Any) -> None:
        self.check_parts(levels, shape, cond)
        self.model.check(levels, shape, cond)

    def check_parts(self, levels: Level, shape: tuple[int, ...], cond: Any) -> None:
        """Raise `Refused` unless the solver takes the model's space and, if `weighs`, has positive variance."""
        name = type(self).__name__
        need(self, self.solver, Solver, "the second argument")
        need(self, self.model, Denoiser, "the first argument")
        check_space(self, self.space)
        check_space(self.solver, self.space)
        check_scales(self, self.model)
        if self.weighs:
            need(self, self.solver, Stochastic, "the second argument")
            if self.solver.deterministic:
                raise Refused(
                    f"{name} works in proportion to the solver's variance, which is 0 at eta=0, so the guidance or "
                    "reward would be ignored; use DDPM() or DDIM(1.0)"
                )
        self.solver.check(levels, shape, cond)


@pytree
class Reverse(Step, Kernel):
    """Make one step of `solver` with the prediction of `model`.

    The state of the model changes once per step; further stages of the solver leave it unchanged.

    Attributes:
      model: any denoiser, guided or not.
      solver: a solver that takes samples of the model's space.

    Raises:
      Refused: a model that is no denoiser or a solver that is none, for example in swapped order; a solver of another
        space.
    """

    model: Any
    solver: Any

    def init(self, x):
        return Carry(x, self.model.init(x), self.solver.init(x))

    def __call__(self, carry, t, s, cond, key):
        model_key, solver_key, evaluate_key = jax.random.split(key, 3)
        pred, state = self.model(carry.x, t, cond, carry.model_state, model_key)
        evaluate = evaluator(self.model, cond, state, evaluate_key)
        x, solver_state = self.solver.step(pred, t, s, evaluate, carry.solver_state, solver_key)
        return Carry(x, state, solver_state)
