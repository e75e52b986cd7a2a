"""Any Flax NNX module as `(apply, params)`: the pure function that `Network` and `NoisyClassifier` take."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flax import nnx


@dataclass(frozen=True, eq=False)
class Functional:
    """`apply(params, *args)` of an NNX module: its graph, and the variables that `params` replaces."""

    graph: Any
    state: Any

    def __call__(self, params, *args, **kwargs):
        new = nnx.State(self.state)
        nnx.replace_by_pure_dict(new, params)
        return nnx.merge(self.graph, new, copy=True)(*args, **kwargs)


def functional(module: nnx.Module) -> tuple[Callable, Any]:
    """Split an NNX module into `apply(params, *args)` and `params`, a nested dict of arrays.

    `apply` copies the module on every call, so that its variables may be used under `jax.grad` and `lax.scan`; what a
    call changes in the module is not kept. It is a copy in evaluation mode: no dropout, stored batch statistics.
    """
    copy = nnx.clone(module)
    copy.eval()
    graph, state = nnx.split(copy)
    return Functional(graph, state), nnx.to_pure_dict(state)
