"""Split any Flax NNX module into `(apply, params)`, a pure function for `Network` and `NoisyClassifier`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flax import nnx


@dataclass(frozen=True, eq=False)
class Functional:
    """Call an NNX module as `apply(params, *args)`. It holds the graph, and variables that `params` replaces."""

    graph: Any
    state: Any

    def __call__(self, params, *args, **kwargs):
        new = nnx.State(self.state)
        nnx.replace_by_pure_dict(new, params)
        return nnx.merge(self.graph, new, copy=True)(*args, **kwargs)


def functional(module: nnx.Module) -> tuple[Callable, Any]:
    """Split an NNX module into `apply(params, *args)` and `params`, a nested dict of arrays.

    `apply` copies the module on every call, so that it works under `jax.grad` and `lax.scan`. Changes that a call makes
    to the module are lost. The copy is in evaluation mode: no dropout, stored batch statistics.
    """
    copy = nnx.clone(module)
    copy.eval()
    graph, state = nnx.split(copy)
    return Functional(graph, state), nnx.to_pure_dict(state)
