"""Losses for ONE sample; `fit` maps them over the batch.

Each is called as `loss(params, key, x0, label) -> scalar`. The clock is drawn uniformly over the schedule, the
noisy sample from q(x_t | x_0).
"""

import dataclasses
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from guidance_jax._typing import Array, Float, Int, Key
from guidance_jax.core import Level, normal, pytree, static
from guidance_jax.models.parameterizations import Parameterization
from guidance_jax.schedules import Betas, Schedule

DROPOUT = 2**31 - 1  # folded into a sample's key for dropout masks; larger than the index of any split of that key


def draw(key: Key[Array, ""], schedule: Schedule) -> Level:
    """Draw a level: the clock is uniform on [start / 1000, start], or one of the timesteps of a discrete schedule."""
    if isinstance(schedule, Betas):
        return schedule(jax.random.randint(key, (), 0, schedule.steps).astype(jnp.float32))
    return schedule(jax.random.uniform(key, minval=1e-3 * schedule.start, maxval=schedule.start))


@dataclass(frozen=True)
class LogNormal:
    """Draw EDM's training levels: log(sigma / alpha) ~ N(mean, std^2) (Karras et al. 2022, Table 1)."""

    mean: float = -1.2
    std: float = 1.2

    def __call__(self, key, schedule):
        log_ratio = self.mean + self.std * jax.random.normal(key)
        return schedule(schedule.at_log_snr(-2 * log_ratio))


def drop(key: Key[Array, ""], label: Int[Array, ""], null: int | None, rate: float) -> Int[Array, ""]:
    """Return `null` with probability `rate`, else the label: conditioning dropout (Ho & Salimans 2022)."""
    if null is None or rate == 0:
        return label
    return jnp.where(jax.random.bernoulli(key, rate), null, label)


@pytree
class Loss:
    """Base class of the losses of one sample; a subclass defines `__call__`.

    All losses are pytrees, so that a teacher's parameters are an argument of the compiled program. Fields that need
    another program when they change are static. If `apply` is the method of a Linen module whose field `dropout` is
    above 0, dropout is active in training.

    Attributes:
      apply: the network, a function apply(params, ...).
    """

    apply: Callable = static()

    def ask(self, params: Any, key: Any, *inputs: Any, **options: Any) -> Any:
        """Call the network in training mode: with dropout, if its module has a dropout rate above 0."""
        return self.apply(params, *inputs, **options, **training_options(self.apply, key))


@pytree
class ConditionalLoss(Loss):
    """Base class of the losses of a network with a condition, with conditioning dropout.

    Attributes:
      null: the null label, which replaces a dropped label; None for no conditioning dropout.
      dropout: the share of samples whose label is dropped, in [0, 1] (Ho & Salimans 2022); 0.1 to 0.2 is usual.
      labelled: whether the network gets the label; False gives it the condition None.
    """

    null: int | None = static(default=None, kw_only=True)
    dropout: float = static(default=0.1, kw_only=True)
    labelled: bool = static(default=True, kw_only=True)

    def condition(self, key: Any, label: Any) -> Any:
        """Return the label, with probability `dropout` the null label; None if `labelled` is False."""
        return drop(key, label, self.null, self.dropout) if self.labelled else None


@pytree
class Denoising(ConditionalLoss):
    """Train a denoiser by || network(x_t, t, y) - target ||^2, with conditioning dropout.

    The square is averaged over the entries of one sample.

    Attributes:
      apply, parameterization: as in `Network`.
      schedule: the schedule of the noise that is added to the data.
      null, dropout, labelled: as in `ConditionalLoss`.
      levels: levels(key, schedule) -> the training level; by default its clock is uniform.

    >>> from guidance_jax import Cosine, parameterizations
    >>> loss = Denoising(lambda params, x, t, cond: params * x, Cosine(), parameterizations.v, null=10)
    >>> loss(jnp.ones(()), jax.random.key(0), jnp.ones(3), jnp.int32(1)).shape
    ()
    """

    schedule: Schedule = static()
    parameterization: Parameterization = static()
    levels: Callable = static(default=draw, kw_only=True)

    def __call__(
        self, params: Any, key: Key[Array, ""], x0: Float[Array, "*event"], label: Int[Array, ""]
    ) -> Float[Array, ""]:
        level_key, noise_key, dropout_key, residual_key = jax.random.split(key, 4)
        level, eps = self.levels(level_key, self.schedule), normal(noise_key, x0)
        cond = self.condition(dropout_key, label)
        inputs = self.parameterization.inputs(level.noise(x0, eps), level)

        def ask(cond, **options):
            return self.ask(params, key, *inputs, cond, **options)

        return jnp.mean(self.residual(ask, cond, self.parameterization.target(x0, eps, level), residual_key) ** 2)

    def residual(self, ask: Callable, cond: Any, target: Float[Array, "*event"], key: Key[Array, ""]) -> Any:
        """Return the error whose mean square is the loss; `ask(cond)` is the network's output at x_t."""
        return ask(cond) - target


@pytree
class NoisyCrossEntropy(Loss):
    """Train a noisy classifier by -log p(y | x_t), in nats, at a random level.

    Attributes:
      apply: apply(params, x, t) -> logits.
      schedule: the schedule of the noise that is added to the data.
      levels: levels(key, schedule) -> the training level; by default its clock is uniform.
    """

    schedule: Schedule = static()
    levels: Callable = static(default=draw)

    def __call__(
        self, params: Any, key: Key[Array, ""], x0: Float[Array, "*event"], label: Int[Array, ""]
    ) -> Float[Array, ""]:
        level_key, noise_key = jax.random.split(key)
        level = self.levels(level_key, self.schedule)
        logits = self.ask(params, key, level.noise(x0, normal(noise_key, x0)), level.t)
        return -jax.nn.log_softmax(logits.astype(jnp.float32))[label]


@pytree
class JudgeCrossEntropy(Loss):
    """Train a classifier of clean images, with dropout, by -log p(y | x_0), in nats.

    Each image is shifted at random by up to one pixel in both directions.

    Attributes:
      apply: apply(params, x, train, rngs) -> (logits, features).

    >>> loss = JudgeCrossEntropy(lambda params, x, train, rngs: (params * jnp.ones(10), x))
    >>> round(float(loss(jnp.zeros(()), jax.random.key(0), jnp.ones((8, 8, 1)), jnp.int32(3))), 4)  # log 10
    2.3026
    """

    def __call__(
        self, params: Any, key: Key[Array, ""], x0: Float[Array, "h w c"], label: Int[Array, ""]
    ) -> Float[Array, ""]:
        shift_key, dropout_key = jax.random.split(key)
        dy, dx = jax.random.randint(shift_key, (2,), 0, 3)
        padded = jnp.pad(x0, ((1, 1), (1, 1), (0, 0)), constant_values=-1.0)
        shifted = jax.lax.dynamic_slice(padded, (dy, dx, 0), x0.shape)
        logits, _ = self.apply(params, shifted, train=True, rngs={"dropout": dropout_key})
        return -jax.nn.log_softmax(logits)[label]


def training_options(apply: Any, key: Any) -> dict[str, Any]:
    """Return what `apply` of a module with dropout needs in training: `train=True` and the key of the dropout masks.

    A Linen module has dropout if its field `dropout`, the rate, is above 0. Other functions get no extra arguments.
    """
    module = apply.__self__ if isinstance(apply, types.MethodType) else None
    if not isinstance(module, nn.Module):
        return {}
    rate = {f.name: vars(module)[f.name] for f in dataclasses.fields(module) if f.name == "dropout"}.get("dropout", 0.0)
    return {"train": True, "rngs": {"dropout": jax.random.fold_in(key, DROPOUT)}} if rate > 0 else {}
