"""Make a `Network` in one line from a trained Linen, NNX or Equinox module, or from a plain velocity field."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import numpy as np

from guidance_jax.core import Refused
from guidance_jax.models import parameterizations
from guidance_jax.models.domain import Domain
from guidance_jax.models.network import Network
from guidance_jax.schedules import RectifiedFlow


@dataclass(frozen=True)
class Call:
    """Call `apply(params, x, t, cond, **options)`, without `cond` if it is None. Equal if its fields are equal."""

    apply: Callable
    options: tuple[tuple[str, Any], ...] = ()

    def __call__(self, params, x, t, cond, **more):
        inputs = (x, t) if cond is None else (x, t, cond)
        return self.apply(params, *inputs, **dict(self.options), **more)


def call(apply: Callable, options: dict[str, Any]) -> Call:
    """Return a `Call` with sorted `options`, so that two with the same options are equal."""
    return Call(apply, tuple(sorted(options.items())))


def from_linen(
    module: Any,
    variables: Any,
    parameterization: Any = None,
    domain: Domain | None = None,
    *,
    batched: bool = True,
    **options: Any,
) -> Network:
    """Make a `Network` from a Flax Linen module, called as `module.apply(variables, x, t, cond, **options)`.

    Args:
      module: the module.
      variables: the trained variables, in the form that `init` returns: `{"params": ..., "batch_stats": ...}`.
      parameterization: what the output means, one of `guidance_jax.parameterizations`. It must be given.
      domain: as in `Network`.
      batched: True for a module that takes batches, as most Linen modules do.
      options: arguments of every call, for example `train=False` or `deterministic=True`.
    """
    if isinstance(variables, Mapping) and "params" not in variables:
        names = ", ".join(map(str, variables))
        raise Refused(f'the variables of a module are {{"params": ...}}, as init returns them, got the entries {names}')
    return Network(variables, call(module.apply, options), parameterization, domain, None, batched)


def from_nnx(
    module: Any,
    parameterization: Any = None,
    domain: Domain | None = None,
    *,
    batched: bool = True,
    **options: Any,
) -> Network:
    """Make a `Network` from a Flax NNX module, called as `module(x, t, cond, **options)` in evaluation mode.

    The module does not change. A copy is set to evaluation mode: no dropout, batch statistics used and not updated.

    Args:
      module: the module, with its trained variables.
      parameterization, domain, batched, options: as in `from_linen`.
    """
    from guidance_jax.models.nnx import functional

    apply, params = functional(module)
    return Network(params, call(apply, options), parameterization, domain, None, batched)


def from_equinox(
    module: Any,
    parameterization: Any = None,
    domain: Domain | None = None,
    *,
    batched: bool = False,
    **options: Any,
) -> Network:
    """Make a `Network` from an Equinox module, or any callable pytree, called as `module(x, t, cond, **options)`.

    Its arrays are the parameters, everything else is part of the compiled program. Equinox modules are written for one
    sample. Set the module to inference first: `eqx.nn.inference_mode(module)`.

    Args:
      module: the module, with its trained arrays.
      parameterization, domain, options: as in `from_linen`.
      batched: False for a module that takes one sample, as most Equinox modules do.
    """
    leaves, tree = jax.tree.flatten(module)
    arrays = [leaf if isinstance(leaf, jax.Array | np.ndarray) else None for leaf in leaves]
    if not any(array is not None for array in arrays):
        raise Refused(
            f"{type(module).__name__} holds no arrays: it is not a trained module; write Network(params, apply)"
        )
    rest = tuple(leaf if array is None else None for leaf, array in zip(leaves, arrays, strict=True))
    return Network(arrays, call(Rebuilt(tree, rest), options), parameterization, domain, None, batched)


@dataclass(frozen=True)
class Rebuilt:
    """Call a pytree as a function of its arrays: a list with None for each leaf that is no array and is in `rest`."""

    tree: Any
    rest: tuple[Any, ...]

    def __call__(self, arrays, *inputs, **options):
        leaves = [own if array is None else array for array, own in zip(arrays, self.rest, strict=True)]
        return jax.tree.unflatten(self.tree, leaves)(*inputs, **options)


def from_velocity(
    v: Callable,
    domain: Domain | None = None,
    *,
    params: Any = (),
    data_at: int,
    batched: bool,
) -> Network:
    """Make a `Network` on `RectifiedFlow`, whose clock is 0 at the data, from a flow-matching velocity field.

        data_at=0:  x_t = (1 - t) x0 + t eps, v = eps - x0, as here, in SD3 and FLUX
        data_at=1:  x_t = (1 - t) eps + t x0, v = x0 - eps, as in Lipman et al. 2023 (arXiv 2210.02747)

    Args:
      v: the field v(t, x, cond), or v(params, t, x, cond) if `params` are given, of one sample or of a batch.
      domain: as in `Network`; its schedule is `RectifiedFlow()`.
      params: a pytree of arrays; () for none. Weights that v closes over are compiled in as constants.
      data_at: the time, 0 or 1, at which x is data. It must be given: a function does not tell.
      batched: as in `Network`.

    Raises:
      Refused: another `data_at`, or a domain with another schedule.
    """
    if data_at not in (0, 1):
        raise Refused(
            f"the time of a velocity field at the data must be 0 or 1, got data_at={data_at}; write data_at=1"
        )
    if domain is not None and domain.schedule not in (None, RectifiedFlow()):
        raise Refused(
            f"a velocity field needs the schedule RectifiedFlow(), got a domain on {domain.schedule}; write "
            "schedule=RectifiedFlow()"
        )
    field = Field(v, isinstance(params, tuple) and not params)
    meaning = parameterizations.velocity_to_data if data_at else OnFlow()
    return Network(params, field, meaning, domain, None, batched)


@dataclass(frozen=True)
class OnFlow(parameterizations.Velocity):
    """The velocity of a field that gets the clock of `RectifiedFlow`. Levels of another schedule are refused."""

    schedule: ClassVar[Any] = RectifiedFlow()


@dataclass(frozen=True)
class Field:
    """Call a velocity field v as `apply(params, x, t, cond)`. If `bare` is True, v takes no parameters."""

    v: Callable
    bare: bool

    def __call__(self, params, x, t, cond):
        return self.v(t, x, cond) if self.bare else self.v(params, t, x, cond)
