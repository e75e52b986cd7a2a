"""Adapters call a model or guide differently: with another condition, on another schedule, a few samples at a time."""

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
    """Call `inner` at another `point` or with another condition. The adapter is a part of the same kind as `inner`.

    Around a denoiser it is a denoiser, with hidden states if `inner` has them. Around a guide it is a guide. `adapter`
    makes a class for each kind, and `Adapter(inner)` chooses the right one.
    """

    kinds: ClassVar[dict[type, type]] = {}

    def __new__(cls, inner: Any = None, *_: Any, **__: Any) -> Any:
        for kind, own in cls.kinds.items():
            if isinstance(inner, kind):
                return object.__new__(own)
        return object.__new__(cls.kinds.get(Denoiser, cls))  # `check` then refuses `inner`

    def point(self, x: Any, level: Level) -> tuple[Any, Level]:
        """Return the sample and the level that `inner` gets; by default x and `level` themselves."""
        return x, level

    def give(self, cond: Any) -> Any:
        """Return the condition that `inner` gets; by default `cond` itself."""
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
    """Give the `Adapter` `cls` one pytree class for each kind of part that it can wrap, and return `cls`."""
    names = {"__doc__": cls.__doc__, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
    cls.kinds = {  # type: ignore[attr-defined]
        kind: pytree(type(cls.__name__, (cls, asked), dict(names))) for kind, asked in ASKED.items()
    }
    return cls


@adapter
@pytree
class Unconditional(Adapter):
    """Call the inner denoiser with the null condition, whatever condition is given.

    Use it for classifier guidance of a model that was trained with conditioning dropout: the label then steers only
    through the classifier. It adds no network call.

    Attributes:
      inner: the denoiser.
      null: the condition that means "unconditional", for one sample.

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
    """Call the inner denoiser or guide with `select(cond)` as its condition.

    Use it for conditions with several parts, of which each guide reads one: `Conditioned(model, "label")`.

    Attributes:
      inner: the denoiser, classifier or likelihood.
      select: a function of one sample's condition, or the name of an entry if the condition is a dictionary. Names
        never cause retracing; a new lambda always does.

    Raises:
      Refused: a condition without that entry, or a selected condition that `inner` refuses.
    """

    inner: Any
    select: Callable | str = static()

    def give(self, cond):
        return part_of(cond, self.select)


def part_of(cond: Any, select: Callable | str | None) -> Any:
    """Return `select(cond)`, or the entry of `cond` named `select`, or all of `cond` if `select` is None.

    Raises:
      Refused: a name that is no entry of `cond`.
    """
    if isinstance(select, str):
        if not isinstance(cond, dict) or select not in cond:
            got = f"entries {', '.join(map(str, cond))}" if isinstance(cond, dict) else type(cond).__name__
            raise Refused(f"the condition has no entry {select!r}, got {got}; pass cond={{{select!r}: ...}}")
        return cond[select]
    return cond if select is None else select(cond)


def known_part(cond: Any, select: Callable | str | None) -> Any:
    """Return `part_of(cond, select)` for checks, where `cond` has batch axes; () if `select` is a function of one."""
    return () if callable(select) else part_of(cond, select)


@pytree
class Microbatched(AskedGuide):
    """Compute the gradient of a guide for `size` samples at a time under `vmap`, which needs less memory.

    The samples are the same. The gradient cannot be differentiated again (`Classifier` and `MeanShift` do not).

    Attributes:
      inner: the guide.
      size: the number of samples at a time, 1 or more.

    Raises:
      Refused: a size below 1.
    """

    inner: Any
    size: int = static()

    def __post_init__(self):
        if self.size < 1:
            raise Refused(f"a microbatch needs at least one sample, got size={self.size}")

    def score(self, x, level, cond):
        """Return grad log p(cond | x_t), computed for `size` samples at a time."""
        return few_at_a_time(_score_of, self.size)(x, self.inner, level, cond)


def _score_of(x, inner, level, cond):
    return inner.score(x, level, cond)


def few_at_a_time(f: Callable, size: int) -> Callable:
    """Wrap `f`, a function of positional pytrees, so that under `vmap` it runs for `size` batch elements at a time."""

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
    """Use a denoiser or classifier, trained on `schedule`, on the levels of any other schedule.

    Levels of equal noise-to-signal ratio on two schedules have the same distribution up to a factor. So `inner` is
    called at the level of its own schedule with the ratio of `level`, at the point x' = x own.alpha / level.alpha.

    Attributes:
      inner: the denoiser or guide.
      schedule: the schedule on which `inner` was trained.

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
        """Return grad log p of the inner guide, times own.alpha / level.alpha by the chain rule."""
        score = super().score(x, level, cond)  # type: ignore[misc]
        return score * factor(self.point(x, level)[1], level)


def factor(own: Level, level: Level) -> Any:
    """Return own.alpha / level.alpha = own.sigma / level.sigma of two levels of equal ratio.

    The quotient of the larger ones, alpha or sigma, is used: it is finite where the other is 0 / 0.
    """
    noisy = level.sigma > level.alpha
    return jnp.where(noisy, own.sigma, own.alpha) / jnp.where(noisy, level.sigma, level.alpha)
