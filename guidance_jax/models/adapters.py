"""The same model or guide asked differently: another condition, another schedule, or a few samples at a time."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp

from guidance_jax.core import (
    Denoiser,
    GaussianDiffusion,
    Guide,
    HiddenStates,
    Level,
    Prediction,
    Refused,
    Wrapper,
    concrete,
    pytree,
    static,
)
from guidance_jax.schedules import Schedule

T = TypeVar("T")


class Adapter(Wrapper):
    """Asks `inner` at another `point` or with another condition, and is what `inner` is.

    Around a denoiser it is a denoiser, with hidden states where that has them, around a guide it is a guide: `adapter`
    makes a class for each, and `Adapter(inner)` takes the right one.
    """

    kinds: ClassVar[dict[type, type]] = {}

    def __new__(cls, inner: Any = None, *_: Any, **__: Any) -> Any:
        for kind, own in cls.kinds.items():
            if isinstance(inner, kind):
                return object.__new__(own)
        return object.__new__(cls.kinds.get(Denoiser, cls))  # which says in `check` that it needs another inside

    def point(self, x: Any, level: Level) -> tuple[Any, Level]:
        """The sample and the level that `inner` is asked about; by default the same."""
        return x, level

    def give(self, cond: Any) -> Any:
        """The condition that `inner` is given; by default the same."""
        return cond

    def check(self, levels, shape, cond):
        super().check(levels, shape, self.give(cond))


class AskedDenoiser(Adapter, Denoiser):
    """An adapter of a denoiser."""

    def __call__(self, x, level, cond, state, key):
        return self.inner(*self.point(x, level), self.give(cond), state, key)


class AskedHiddenStates(AskedDenoiser, HiddenStates):
    """An adapter of a denoiser with hidden states."""

    def hidden(self, x, level, cond):
        return self.inner.hidden(*self.point(x, level), self.give(cond))

    def logits_of(self, h, level, cond):
        return self.inner.logits_of(h, self.point(0.0, level)[1], self.give(cond))

    def read(self, logits, x, level):
        return self.inner.read(logits, *self.point(x, level))


class AskedGuide(Adapter, Guide):
    """An adapter of a guide."""

    wraps = Guide

    def log_prob(self, x, level, cond):
        return self.inner.log_prob(*self.point(x, level), self.give(cond))

    def score(self, x, level, cond):
        return self.inner.score(*self.point(x, level), self.give(cond))


ASKED = {HiddenStates: AskedHiddenStates, Denoiser: AskedDenoiser, Guide: AskedGuide}


def adapter(cls: type[T]) -> type[T]:
    """Make the pytree `cls`, an `Adapter`, a class for each kind of part that it may be around."""
    names = {"__doc__": cls.__doc__, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
    cls.kinds = {  # type: ignore[attr-defined]
        kind: pytree(type(cls.__name__, (cls, asked), dict(names))) for kind, asked in ASKED.items()
    }
    return cls


@adapter
@pytree
class Unconditional(Adapter):
    """The inner denoiser asked with the null condition, whatever condition it is given.

    For classifier guidance of a model trained with conditioning dropout: the label then steers through the
    classifier alone. No call of its own.

    Attributes:
      inner: the denoiser.
      null: the condition that means "unconditional", one sample's.

    Raises:
      Refused: a null condition that `inner` does not know.
    """

    inner: Any
    null: Any

    def give(self, cond):
        return self.null


@adapter
@pytree
class Conditioned(Adapter):
    """The inner denoiser or guide given `select(cond)` for its condition.

    For conditions of several parts, of which each guide reads its own: `Conditioned(model, "label")`.

    Attributes:
      inner: the denoiser, classifier or likelihood.
      select: a function of one sample's condition, or the name of an entry where that is a dictionary. Names never
        retrace; a fresh lambda always does.

    Raises:
      Refused: whatever `inner` refuses of that condition.
    """

    inner: Any
    select: Callable | str = static()

    def give(self, cond):
        return part_of(cond, self.select)


def part_of(cond: Any, select: Callable | str | None) -> Any:
    """`select(cond)`, the entry of that name, or all of it if None.

    Raises:
      Refused: a name that `cond` has not.
    """
    if isinstance(select, str):
        if not isinstance(cond, dict) or select not in cond:
            got = f"entries {', '.join(map(str, cond))}" if isinstance(cond, dict) else type(cond).__name__
            raise Refused(f"the condition has no entry {select!r}, got {got}; pass cond={{{select!r}: ...}}")
        return cond[select]
    return cond if select is None else select(cond)


def known_part(cond: Any, select: Callable | str | None) -> Any:
    """As `part_of`, for checks, whose `cond` has batch axes: nothing if `select` is a function of one sample."""
    return () if callable(select) else part_of(cond, select)


@pytree
class Microbatched(AskedGuide):
    """A guide whose gradient is taken for `size` samples at a time, as `vmap` batches them: less memory.

    The samples are the same. The gradient cannot be differentiated again (`Classifier` and `MeanShift` do not).

    Attributes:
      inner: the guide.
      size: samples at a time.

    Raises:
      Refused: a size below 1.
    """

    inner: Any
    size: int = static()

    def __post_init__(self):
        if self.size < 1:
            raise Refused(f"a microbatch has at least one sample, got size={self.size}")

    def score(self, x, level, cond):
        """grad log p(cond | x_t), `size` samples at a time."""
        return few_at_a_time(_score_of, self.size)(x, self.inner, level, cond)


def _score_of(x, inner, level, cond):
    return inner.score(x, level, cond)


def few_at_a_time(f: Callable, size: int) -> Callable:
    """`f` of positional arrays or pytrees; under `vmap` it runs for `size` elements of the batch at a time."""

    @jax.custom_batching.custom_vmap
    def call(*args):
        return f(*args)

    @call.def_vmap
    def _(_, batched, *args):
        leaves, structure = jax.tree.flatten(args)
        flags = jax.tree.leaves(batched)

        def one(mapped):
            rest = iter(mapped)
            return f(*structure.unflatten([next(rest) if flag else a for a, flag in zip(leaves, flags, strict=True)]))

        out = jax.lax.map(one, [a for a, flag in zip(leaves, flags, strict=True) if flag], batch_size=size)
        return out, jax.tree.map(lambda _: True, out)

    return call


@adapter
@pytree
class OnSchedule(Adapter):
    """A denoiser or classifier trained on `schedule`, usable on levels of any other.

    The same noise-to-signal ratio on two schedules is the same distribution up to a factor, so the inner object is
    asked at its own level of equal ratio, with x scaled to it: x' = x own.alpha / level.alpha.

    Attributes:
      inner: the denoiser or guide.
      schedule: the one whose clock it knows.

    Raises:
      Refused: a model of tokens.
    """

    inner: Any
    schedule: Schedule = static()

    takes = GaussianDiffusion

    @property
    def domain(self):
        domain = self.inner.domain
        return None if domain is None else dataclasses.replace(domain, schedule=None)

    def point(self, x, level):
        own = self.schedule(self.schedule.at_log_snr(-2 * jnp.log(level.ratio)))
        return x * factor(own, level), own

    def check(self, levels, shape, cond):
        super().check(self.schedule.by_ratio(levels.ratio[:-1]) if concrete(levels) else levels, shape, cond)

    def __call__(self, x, level, cond, state, key):
        pred, state = super().__call__(x, level, cond, state, key)  # type: ignore[misc]
        return Prediction(pred.x0, pred.eps, pred.variance_fraction), state

    def score(self, x, level, cond):
        """grad log p of the inner guide; x' = x own.alpha / level.alpha brings that factor."""
        score = super().score(x, level, cond)  # type: ignore[misc]
        return score * factor(self.point(x, level)[1], level)


def factor(own: Level, level: Level) -> Any:
    """own.alpha / level.alpha = own.sigma / level.sigma of two levels of one ratio: by the larger of the two."""
    noisy = level.sigma > level.alpha
    return jnp.where(noisy, own.sigma, own.alpha) / jnp.where(noisy, level.sigma, level.alpha)
