"""The plain reverse transition: ask the denoiser, let the solver move."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from guidance_jax.core import check, concrete, pytree, within


class Carry(NamedTuple):
    """What a sample carries from step to step."""

    x: Any
    guide: Any
    solver: Any


def needs_variance(owner: Any, solver: Any) -> None:
    """Raise unless the transition of `solver` is a Gaussian of positive variance: without, `owner` does nothing."""
    name, kind = type(owner).__name__, type(solver).__name__
    if not hasattr(solver, "kernel"):
        raise ValueError(f"{name} needs a solver with a Gaussian kernel, got {kind}; use DDPM() or DDIM(1.0)")
    eta = getattr(solver, "eta", None)
    if eta is not None and concrete(eta) and not np.any(eta):
        raise ValueError(
            f"{name} works in proportion to the solver's variance, which is 0 at eta=0, so it would be ignored; use "
            "DDPM() or DDIM(1.0)"
        )


def frozen(model: Any, cond: Any, state: Any, key: Any) -> Callable[[Any, Any], Any]:
    """`evaluate(x, level)` for the further stages of a solver, which see the state of the model as it is."""
    return lambda x, level: model(x, level, cond, state, key)[0]


@pytree
class Reverse:
    """One step of `solver` on `model`. The denoiser's state moves once a step; further stages see it frozen.

    Raises:
      ValueError: a model or solver that is none, swapped arguments for example.
    """

    model: Any
    solver: Any

    def init(self, x):
        return Carry(x, self.model.init(x), self.solver.init(x))

    def check(self, levels, shape, cond):
        if not hasattr(self.solver, "step"):
            raise ValueError(
                f"the second argument of Reverse is a solver, got {type(self.solver).__name__}; "
                "write Reverse(model, DDIM())"
            )
        if not callable(self.model) or not hasattr(self.model, "init"):
            raise ValueError(
                f"the first argument of Reverse is a denoiser, got {type(self.model).__name__}; "
                "wrap a function f(x, level, cond) -> x0 as Function(f)"
            )
        tokens = within(self.model, "process") is not None
        if tokens != hasattr(self.solver, "tokens"):
            name, kind = type(self.solver).__name__, "tokens" if tokens else "images or vectors"
            raise ValueError(f"the model is of {kind}, {name} is not; use {'Ancestral()' if tokens else 'DDIM()'}")
        check(self.model, levels, shape, cond)
        check(self.solver, levels, shape, cond)

    def __call__(self, carry, t, s, cond, key):
        first, second, third = jax.random.split(key, 3)
        pred, guide = self.model(carry.x, t, cond, carry.guide, first)
        x, solver = self.solver.step(pred, t, s, frozen(self.model, cond, guide, third), carry.solver, second)
        return Carry(x, guide, solver)
