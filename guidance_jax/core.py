"""The vocabulary: levels, predictions, and what a denoiser, a solver and a kernel are.

Everything is written for ONE sample `x` of shape `event_shape` and one scalar level; batches come from `jax.vmap`.

    Denoiser  (x, level, cond, state, key) -> (Prediction, state)     where is the clean sample?
    Solver    step(pred, t, s, evaluate, state, key) -> (x, state)    where do we go next?
    Kernel    (carry, t, s, cond, key) -> carry                       one reverse transition

A guidance method is a denoiser made from a denoiser; what changes the transition is a kernel made from a kernel.
Every object is a frozen dataclass that is also a pytree: its numbers are leaves, so changing one recompiles nothing.
"""

import dataclasses
import types
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar, dataclass_transform, runtime_checkable

import jax
import jax.numpy as jnp

from guidance_jax._typing import Array, Float, Key

T = TypeVar("T")


def static(**options: Any) -> Any:
    """A dataclass field that is part of the program (a function, a repeat count), not a traced number."""
    return dataclasses.field(metadata={"static": True}, **options)


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(dataclasses.field, static))
def pytree(cls: type[T]) -> type[T]:
    """Make `cls` a frozen dataclass and register it as a pytree; fields made by `static()` are not leaves.

    Objects are compared and hashed by identity, since arrays cannot be.
    """
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True, eq=False)(cls))


def function(f: Any) -> Any:
    """A callable as a pytree: a bound method with the numbers of its object as leaves, a plain function without any.

    Two wraps of the same function are equal, so a function defined once never retraces; a fresh `lambda` always does.
    What already is a pytree stays as it is.
    """
    if isinstance(f, types.MethodType):
        return jax.tree_util.Partial(f.__func__, f.__self__)
    opaque = callable(f) and jax.tree.leaves(f) == [f]
    return jax.tree_util.Partial(f) if opaque else f


class Level(NamedTuple):
    """A noise level, x_t = alpha x_0 + sigma eps; with a leading axis, a sequence of them.

    `t` is the schedule's own clock (what the network is told), `alpha` and `sigma` are what the arithmetic uses.
    """

    t: Any
    alpha: Any
    sigma: Any

    @property
    def ratio(self) -> Any:
        """sigma / alpha, the noise-to-signal ratio: the `sigma` of EDM and of guidance intervals."""
        return self.sigma / self.alpha

    def at(self, index: Any) -> "Level":
        """The level (or the slice of levels) at `index` of a sequence."""
        return Level(*(a[index] for a in self))

    def noise(self, x0: Float[Array, "*event"], eps: Float[Array, "*event"]) -> Float[Array, "*event"]:
        """alpha x0 + sigma eps."""
        return self.alpha * x0 + self.sigma * eps


@pytree
class Prediction:
    """A noisy point split into signal and noise, x_t = alpha x0 + sigma eps. Solvers read nothing else.

    `variance_fraction` is for models with a learned variance only: 0 is the smallest reverse variance (beta-tilde),
    1 the largest (beta), interpolated in the logarithm. The variance itself depends on the next level, which a
    denoiser never sees, so it is the solver that turns the fraction into a variance.
    """

    x0: Any  # (*event)
    eps: Any  # (*event)
    variance_fraction: Any = None  # None or (*event)

    @staticmethod
    def split(x: Float[Array, "*event"], x0: Float[Array, "*event"], level: Level) -> "Prediction":
        """The prediction at `x` whose clean estimate is `x0`."""
        return Prediction(x0, (x - level.alpha * x0) / level.sigma)

    def towards(self, x0: Float[Array, "*event"], level: Level) -> "Prediction":
        """New clean estimate, same point x: the noise takes up the difference (scores, CFG, classifiers, clipping)."""
        eps = self.eps + level.alpha / level.sigma * (self.x0 - x0)
        return dataclasses.replace(self, x0=x0, eps=eps)

    def moved(self, delta: Float[Array, "*event"]) -> "Prediction":
        """New clean estimate, same noise: the point moves with it (CFG++, TFG, MPGD)."""
        return dataclasses.replace(self, x0=self.x0 + delta)

    def contrast(self, weak: "Prediction", scale: Any, level: Level) -> "Prediction":
        """weak + scale (self - weak), same point x: what every contrast of two predictions is made of."""
        return self.towards(weak.x0 + scale * (self.x0 - weak.x0), level)


@runtime_checkable
class Denoiser(Protocol):
    """Says where the clean sample is. `state` is whatever it must remember from step to step; `()` for most."""

    def init(self, x: Any) -> Any: ...

    def __call__(self, x: Any, level: Level, cond: Any, state: Any, key: Any) -> tuple[Prediction, Any]: ...


@runtime_checkable
class Solver(Protocol):
    """Moves from level `t` to the less noisy level `s`; `evaluate(x, level)` asks the denoiser again.

    A solver whose transition is Gaussian also has `kernel(pred, t, s) -> (mean, std)`; what needs it says so.
    """

    def init(self, x: Any) -> Any: ...

    def step(
        self, pred: Prediction, t: Level, s: Level, evaluate: Callable, state: Any, key: Any
    ) -> tuple[Any, Any]: ...


@runtime_checkable
class Kernel(Protocol):
    """One reverse transition of everything that is carried; the carry has a field `x`."""

    def init(self, x: Any) -> Any: ...

    def __call__(self, carry: Any, t: Level, s: Level, cond: Any, key: Any) -> Any: ...


def normal(key: Key[Array, ""], like: Float[Array, "*event"]) -> Float[Array, "*event"]:
    """Standard normal noise of the shape and type of `like`."""
    return jax.random.normal(key, like.shape, like.dtype)


def real(x: Any) -> Any:
    """The floating type that goes with a sample: its own, or the default one for tokens."""
    dtype = jnp.result_type(x)
    return dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.result_type(float)


def within(part: Any, name: str) -> Any:
    """`part`, or the first thing inside it (kernel, move, model, inner), that has the attribute `name`, or None."""
    while part is not None and not hasattr(part, name):
        part = next((getattr(part, a) for a in ("kernel", "move", "model", "inner") if hasattr(part, a)), None)
    return part


def concrete(value: Any) -> bool:
    """True if every number in `value` is known now, so that a check may look at it."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value))


def check(part: Any, levels: Level, shape: tuple[int, ...], cond: Any) -> None:
    """Ask `part` to refuse, with a one-line `ValueError`, what it cannot honour.

    `sample` calls it once, before the loop, on the kernel; each part asks the parts inside. Numbers that are traced
    at that moment are not looked at, structure always is. `cond` carries whatever batch axes the caller has.
    """
    if hasattr(part, "check"):
        part.check(levels, shape, cond)
