"""The plain reverse transition: ask the denoiser, let the solver move."""

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
    """What a sample carries from step to step."""

    x: Any
    model_state: Any
    solver_state: Any


def evaluator(model: Denoiser, cond: Any, state: Any, key: Any) -> Callable[[Any, Level], Any]:
    """`evaluate(x, level)` for the further stages of a solver, which see the state of the model as it is."""
    return lambda x, level: model(x, level, cond, state, key)[0]


class Step:
    """What has a `model` and a `solver` that go together: kernels and moves. Start and space are the model's.

    `weighs` says that it needs the solver's transition, of positive variance: without, it would do nothing.
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
        """Raise `Refused` unless the solver takes the model's space and, if it `weighs`, has a transition."""
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
                    f"{name} works in proportion to the solver's variance, which is 0 at eta=0, so it would be "
                    "ignored; use DDPM() or DDIM(1.0)"
                )
        self.solver.check(levels, shape, cond)


@pytree
class Reverse(Step, Kernel):
    """One step of `solver` on `model`. The denoiser's state moves once a step; further stages see it frozen.

    Attributes:
      model: any denoiser, guided or not.
      solver: one that takes samples of the model's space.

    Raises:
      Refused: a model or solver that is none, swapped arguments for example, or that do not go together.
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
