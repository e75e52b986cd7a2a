"""Losses for ONE sample; `fit` maps them over the batch.

Each is called as `loss(params, key, x0, label) -> scalar`. The clock is drawn uniformly over the schedule, the
corruption from q(x_t | x_0).
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

DROPOUT = 2**31 - 1  # folded into a sample's key for the masks of dropout: beyond the number of any split


def draw(key: Key[Array, ""], schedule: Schedule) -> Level:
    """A level with its clock uniform over the schedule: [0, start], or one of the timesteps of a discrete process."""
    if isinstance(schedule, Betas):
        return schedule(jax.random.randint(key, (), 0, schedule.steps).astype(jnp.float32))
    return schedule(jax.random.uniform(key, minval=1e-3 * schedule.start, maxval=schedule.start))


@dataclass(frozen=True)
class LogNormal:
    """EDM's training levels: log(sigma / alpha) ~ N(mean, std^2) (Karras et al. 2022, Table 1)."""

    mean: float = -1.2
    std: float = 1.2

    def __call__(self, key, schedule):
        log_ratio = self.mean + self.std * jax.random.normal(key)
        return schedule(schedule.at_log_snr(-2 * log_ratio))


def drop(key: Key[Array, ""], label: Int[Array, ""], null: int | None, rate: float) -> Int[Array, ""]:
    """Conditioning dropout (Ho & Salimans 2022): `null` with probability `rate`, else the label."""
    if null is None or rate == 0:
        return label
    return jnp.where(jax.random.bernoulli(key, rate), null, label)


@pytree
class Loss:
    """What losses of one sample share. No loss by itself: a subclass gives `__call__` and a field `apply`.

    All are pytrees, so that a teacher's parameters are an argument of the program and no part of it; what makes the
    program another is static. A Linen module's `apply` whose `dropout` is above 0 is trained with it.

    Attributes:
      apply: the network.
    """

    apply: Callable = static()

    def ask(self, params: Any, key: Any, *inputs: Any, **options: Any) -> Any:
        """The network's output in training."""
        return self.apply(params, *inputs, **options, **training_options(self.apply, key))


@pytree
class ConditionalLoss(Loss):
    """A loss of a network with a condition, which is dropped now and then. No loss by itself.

    Attributes:
      null: the label that stands for "none"; None for no dropout.
      dropout: the share of samples whose label is dropped (Ho & Salimans 2022); 10 to 20 % is usual.
      labelled: whether the label is passed on at all.
    """

    null: int | None = static(default=None, kw_only=True)
    dropout: float = static(default=0.1, kw_only=True)
    labelled: bool = static(default=True, kw_only=True)

    def condition(self, key: Any, label: Any) -> Any:
        """The label, the null label by chance, or None."""
        return drop(key, label, self.null, self.dropout) if self.labelled else None


@pytree
class Denoising(ConditionalLoss):
    """|| network(x_t, t, y) - target ||^2, averaged over the entries of one sample, with conditioning dropout.

    Attributes:
      apply, parameterization: as in `Network`.
      schedule: of the corruption.
      null, dropout, labelled: of the condition, as in `ConditionalLoss`.
      levels: levels(key, schedule) draws the training level.

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
        """What the loss makes small, where `ask(cond)` is the network's output at x_t."""
        return ask(cond) - target


@pytree
class NoisyCrossEntropy(Loss):
    """-log p(y | x_t) of a noisy classifier, in nats, at a random level.

    Attributes:
      apply: apply(params, x, t) -> logits.
      schedule: of the corruption.
      levels: levels(key, schedule) draws the training level.
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
    """-log p(y | x_0) of a clean classifier with dropout, in nats, the image shifted by up to one pixel.

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
    """What `apply` of a Linen module with dropout is given to train: `train=True` and the key of its masks.

    Modules say so by a field `dropout`, the rate. A function of one's own decides for itself.
    """
    module = apply.__self__ if isinstance(apply, types.MethodType) else None
    if not isinstance(module, nn.Module):
        return {}
    rate = {f.name: vars(module)[f.name] for f in dataclasses.fields(module) if f.name == "dropout"}.get("dropout", 0.0)
    return {"train": True, "rngs": {"dropout": jax.random.fold_in(key, DROPOUT)}} if rate > 0 else {}
