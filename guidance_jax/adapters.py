"""The same model or classifier asked differently: another condition, another schedule, or a few samples at a time."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import Prediction, check, concrete, pytree, static
from guidance_jax.schedules import Schedule


class Adapter:
    """What they share: the state and, unless they change it, the domain of `inner`."""

    inner: Any

    @property
    def domain(self):
        return getattr(self.inner, "domain", None)

    def init(self, x):
        return self.inner.init(x)


@pytree
class Unconditional(Adapter):
    """The inner denoiser asked with the null condition, whatever condition it is given.

    For classifier guidance of a model trained with conditioning dropout: the label then steers through the
    classifier alone.
    """

    inner: Any
    null: Any

    def check(self, levels, shape, cond):
        check(self.inner, levels, shape, self.null)

    def __call__(self, x, level, cond, state, key):
        return self.inner(x, level, self.null, state, key)

    def hidden(self, x, level, cond):
        """Hidden states of the inner network, for `NOS`."""
        return self.inner.hidden(x, level, self.null)

    def decoded(self, h, level, cond):
        return self.inner.decoded(h, level, self.null)

    def read(self, logits, x, level):
        return self.inner.read(logits, x, level)


@pytree
class Conditioned(Adapter):
    """The inner denoiser, classifier or likelihood given `select(cond)` for its condition.

    For conditions of several parts, of which each guide reads its own: `Conditioned(model, itemgetter("label"))`.
    """

    inner: Any
    select: Callable = static()

    def check(self, levels, shape, cond):
        check(self.inner, levels, shape, self.select(cond))

    def __call__(self, x, level, cond, *state_and_key):
        return self.inner(x, level, self.select(cond), *state_and_key)

    def log_prob(self, x, level, cond):
        """log p of the inner classifier."""
        return self.inner.log_prob(x, level, self.select(cond))


@pytree
class Microbatched(Adapter):
    """A classifier whose gradient is taken for `size` samples at a time, as `vmap` batches them: less memory.

    The samples are the same. The gradient cannot be differentiated again (`Classifier` and `MeanShift` do not).
    """

    inner: Any
    size: int = static()

    def __post_init__(self):
        if self.size < 1:
            raise ValueError(f"a microbatch has at least one sample, got size={self.size}")

    def check(self, levels, shape, cond):
        check(self.inner, levels, shape, cond)

    def log_prob(self, x, level, label):
        """log p(label | x_t) of the inner classifier."""
        return self.inner.log_prob(x, level, label)

    def score(self, x, level, label):
        """grad log p(label | x_t), `size` samples at a time."""
        return few_at_a_time(jax.grad(_log_prob_of), self.size)(x, self.inner, level, label)


def _log_prob_of(x, classifier, level, label):
    return classifier.log_prob(x, level, label)


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


@pytree
class OnSchedule(Adapter):
    """A denoiser or classifier trained on `schedule`, usable on levels of any other.

    The same noise-to-signal ratio on two schedules is the same distribution up to a factor, so the inner object is
    asked at its own level of equal ratio, with x scaled to it: x' = x own.alpha / level.alpha.
    """

    inner: Any
    schedule: Schedule = static()

    @property
    def domain(self):
        domain = getattr(self.inner, "domain", None)
        return None if domain is None else dataclasses.replace(domain, schedule=None)

    def own(self, x, level):
        """The point and the level on the inner schedule."""
        t = self.schedule.at_log_snr(-2 * jnp.log(level.ratio))
        own = self.schedule(t)
        return x * own.alpha / level.alpha, own

    def check(self, levels, shape, cond):
        own = self.schedule.by_ratio(levels.ratio[:-1]) if concrete(levels) else levels
        check(self.inner, own, shape, cond)

    def __call__(self, x, level, cond, state, key):
        pred, state = self.inner(*self.own(x, level), cond, state, key)
        return Prediction(pred.x0, pred.eps, pred.variance_fraction), state

    def log_prob(self, x, level, label):
        """log p(label | x_t) of the inner classifier."""
        return self.inner.log_prob(*self.own(x, level), label)
