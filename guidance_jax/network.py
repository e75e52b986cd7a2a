"""From a network (any pure function) to a denoiser or a noisy classifier.

`Domain` is what a network was made for. With it, wrong shapes, labels, schedules and pairings are refused with one
line instead of giving wrong images; without it, nothing is checked.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax import parameterizations
from guidance_jax._typing import Array, Float
from guidance_jax.core import Level, Prediction, check, concrete, function, pytree, static
from guidance_jax.parameterizations import Parameterization
from guidance_jax.schedules import Schedule


@dataclass(frozen=True)
class Domain:
    """What a network was trained for; checkpoints carry it.

    Attributes:
      shape: the shape of one sample, for example (32, 32, 3).
      schedule: the noise schedule whose clock the network is told; None if unknown.
      num_classes: how many labels there are, 0 to num_classes - 1; None for a model without labels.
      null_label: the label that means "unconditional" (conditioning dropout); None if the model has none.
      guided_channels: how many leading channels contrasts guide, the others staying conditional; None for all (DiT
        guides three of four, for example).
    """

    shape: tuple[int, ...]
    schedule: Schedule | None = None
    num_classes: int | None = None
    null_label: int | None = None
    guided_channels: int | None = None

    def check_shape(self, shape: tuple[int, ...]) -> None:
        if tuple(shape) != tuple(self.shape):
            raise ValueError(f"the network takes samples of shape {self.shape}, got {tuple(shape)}; pass that shape")

    def check_label(self, label: Any) -> None:
        """Raise unless `label` (any shape) holds labels of this domain; nothing to check without classes."""
        if self.num_classes is None:
            return
        if label is None:
            hint = f"jnp.full(n, {self.null_label})" if self.null_label is not None else "jnp.zeros(n, int)"
            raise ValueError(
                f"the model is conditional on {self.num_classes} classes, got cond=None; write cond={hint}"
            )
        if not jnp.issubdtype(jnp.result_type(label), jnp.integer):
            raise ValueError(f"labels must be integers, got {jnp.result_type(label)}; write label.astype(int)")
        if concrete(label):
            values = np.asarray(label)
            bad = (values < 0) | (values >= self.num_classes)
            if self.null_label is not None:
                bad &= values != self.null_label
            if bad.any():
                null = "" if self.null_label is None else f" (or {self.null_label}, unconditional)"
                raise ValueError(
                    f"labels go from 0 to {self.num_classes - 1}{null}, got {values[bad].flat[0]}; "
                    f"use a label below {self.num_classes}"
                )

    def check_levels(self, levels: Level) -> None:
        """Raise if `levels` are not on the schedule whose clock the network knows."""
        if self.schedule is None or not concrete(levels):
            return
        with jax.ensure_compile_time_eval():  # the caller may be inside a jit of its own
            noisy = np.asarray(levels.sigma) > 0
            got = levels.at(noisy)
            own = self.schedule(got.t)
        off = max(
            float(np.max(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)) / np.maximum(np.abs(b), 1)))
            for a, b in zip(got[1:], own[1:], strict=True)
        )
        if off > 1e-3:
            raise ValueError(
                f"the network was trained on {self.schedule}, the levels are on another schedule (off by {off:.2g}); "
                f"write {self.schedule}.levels(...) or OnSchedule(model, {self.schedule})"
            )


def same_process(model: Any, classifier: Any) -> None:
    """Raise if a model and a classifier that both say what they were trained for say different things."""
    a, b = getattr(model, "domain", None), getattr(classifier, "domain", None)
    if a is None or b is None:
        return
    if None not in (a.schedule, b.schedule) and a.schedule != b.schedule:
        raise ValueError(
            f"the model was trained on {a.schedule}, the classifier on {b.schedule}; train them on one schedule or "
            f"write OnSchedule(classifier, {b.schedule})"
        )
    if None not in (a.num_classes, b.num_classes) and a.num_classes != b.num_classes:
        raise ValueError(f"the model has {a.num_classes} classes, the classifier {b.num_classes}; use a matching pair")
    if a.shape != b.shape:
        raise ValueError(f"the model takes samples of shape {a.shape}, the classifier {b.shape}; use a matching pair")


@pytree
class Network:
    """A denoiser from a pure function `apply(params, x, t, cond) -> output`, written for one sample.

    `params` are leaves: EMA weights or another checkpoint of the same shape run the same program. `t` is the clock of
    the schedule (`level.t`) unless the parameterization says otherwise (EDM). A domain without classes keeps `cond`
    from the network, so that an unconditional model can stand beside a classifier that needs the label.
    """

    params: Any
    apply: Callable = static()
    parameterization: Parameterization = static(default=parameterizations.eps)
    domain: Domain | None = static(default=None)
    perturbation: Any = None  # what `perturbed` sets, given to `apply` as the argument of that name

    def __repr__(self):
        size = sum(np.size(a) for a in jax.tree.leaves(self.params))
        return f"Network({size:,} parameters, {self.parameterization}, {self.domain})"

    def init(self, x):
        return ()

    def check(self, levels, shape, cond):
        if self.domain is not None:
            self.domain.check_shape(shape)
            self.domain.check_label(cond)
            self.domain.check_levels(levels)

    def __call__(self, x, level, cond, state, key):
        if self.domain is not None:
            self.domain.check_shape(x.shape)
            if self.domain.num_classes is None:
                cond = None
        cond = jax.tree.map(jnp.asarray, cond)
        options = {} if self.perturbation is None else {"perturbation": self.perturbation}
        output = self.apply(self.params, *self.parameterization.inputs(x, level), cond, **options)
        return self.parameterization.predict(output.astype(x.dtype), x, level), state


class Perturbation(NamedTuple):
    """How a network is made worse on purpose: traced numbers, 0 for not at all.

    Attributes:
      attention: the share of every self-attention map replaced by the identity (PAG: 1).
      blur: the standard deviation, in pixels of the feature map, by which attention queries are blurred (SEG).
      skip: the share of the middle blocks' contribution that is left out (skipped layers: 1).
    """

    attention: Any = 0.0
    blur: Any = 0.0
    skip: Any = 0.0


def perturbed(model: Network, attention: Any = 0.0, blur: Any = 0.0, skip: Any = 0.0) -> Network:
    """A weak version of `model` for `Autoguidance` or `Perturbed`: the same parameters, worse layers.

    Its `apply` must take `perturbation=`, as `ADMUNet` does. Without attention in the network, `attention` and `blur`
    have nothing to act on and guidance with it is none.
    """
    return dataclasses.replace(model, perturbation=Perturbation(attention, blur, skip))


@pytree
class Conditioned:
    """The inner denoiser, classifier or likelihood given `select(cond)` for its condition.

    For conditions of several parts, of which each guide reads its own: `Conditioned(model, itemgetter("label"))`.
    """

    inner: Any
    select: Callable = static()

    @property
    def domain(self):
        return getattr(self.inner, "domain", None)

    def init(self, x):
        return self.inner.init(x)

    def check(self, levels, shape, cond):
        check(self.inner, levels, shape, self.select(cond))

    def __call__(self, x, level, cond, *state_and_key):
        return self.inner(x, level, self.select(cond), *state_and_key)

    def log_prob(self, x, level, cond):
        """log p of the inner classifier."""
        return self.inner.log_prob(x, level, self.select(cond))


@pytree
class Function:
    """A denoiser from any function `f(x, level, cond) -> output`; by default the output is the clean sample x0."""

    f: Any
    parameterization: Parameterization = static(default=parameterizations.x0)

    def __post_init__(self):
        object.__setattr__(self, "f", function(self.f))

    def init(self, x):
        return ()

    def __call__(self, x, level, cond, state, key):
        return self.parameterization.predict(self.f(x, level, cond), x, level), state


@pytree
class Unconditional:
    """The inner denoiser asked with the null condition, whatever condition it is given.

    For classifier guidance of a model trained with conditioning dropout: the label then steers through the
    classifier alone.
    """

    inner: Any
    null: Any

    @property
    def domain(self):
        return getattr(self.inner, "domain", None)

    def init(self, x):
        return self.inner.init(x)

    def check(self, levels, shape, cond):
        check(self.inner, levels, shape, self.null)

    def __call__(self, x, level, cond, state, key):
        return self.inner(x, level, self.null, state, key)


@pytree
class NoisyClassifier:
    """log p(y | x_t) from a pure function `apply(params, x, t) -> logits (num_classes,)`, written for one sample."""

    params: Any
    apply: Callable = static()
    domain: Domain | None = static(default=None)

    def __repr__(self):
        size = sum(np.size(a) for a in jax.tree.leaves(self.params))
        return f"NoisyClassifier({size:,} parameters, {self.domain})"

    def check(self, levels, shape, cond):
        if self.domain is not None:
            self.domain.check_shape(shape)
            self.domain.check_label(cond)
            self.domain.check_levels(levels)

    def logits(self, x: Float[Array, "*event"], level: Level) -> Float[Array, " classes"]:
        """Unnormalised log p(. | x_t)."""
        return self.apply(self.params, x, level.t)

    def log_prob(self, x: Float[Array, "*event"], level: Level, label: Any) -> Float[Array, ""]:
        """log p(label | x_t), in nats, float32 or better whatever the network's type."""
        logits = self.logits(x, level)
        return jax.nn.log_softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))[label]


@pytree
class OnSchedule:
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

    def init(self, x):
        return self.inner.init(x)

    def check(self, levels, shape, cond):
        own = self.schedule.by_ratio(levels.ratio[:-1]) if concrete(levels) else levels
        check(self.inner, own, shape, cond)

    def __call__(self, x, level, cond, state, key):
        pred, state = self.inner(*self.own(x, level), cond, state, key)
        return Prediction(pred.x0, pred.eps, pred.variance_fraction), state

    def log_prob(self, x, level, label):
        """log p(label | x_t) of the inner classifier."""
        return self.inner.log_prob(*self.own(x, level), label)
