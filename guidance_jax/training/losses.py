"""Losses for ONE sample; `fit` maps them over the batch.

Each is a hashable value called as `loss(params, key, x0, label) -> scalar`. The clock is drawn uniformly over the
schedule, the corruption from q(x_t | x_0).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax._typing import Array, Float, Int, Key
from guidance_jax.core import Level, normal
from guidance_jax.models.parameterizations import Parameterization
from guidance_jax.schedules import Betas, Schedule
from guidance_jax.zoo.layers import training_options


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


@dataclass(frozen=True)
class Denoising:
    """|| network(x_t, t, y) - target ||^2, averaged over the entries of one sample, with conditioning dropout.

    A Linen module's `apply` whose `dropout` is above 0 is trained with it.

    Attributes:
      apply, parameterization: as in `Network`.
      schedule: of the corruption.
      null, dropout: of the condition, as in `drop`; 10 to 20 % is usual.
      labelled: whether the label is passed on.
      levels: levels(key, schedule) draws the training level.
    """

    apply: Callable
    schedule: Schedule
    parameterization: Parameterization
    null: int | None = None
    dropout: float = 0.1
    labelled: bool = True
    levels: Callable = draw

    def __call__(
        self, params: Any, key: Key[Array, ""], x0: Float[Array, "*event"], label: Int[Array, ""]
    ) -> Float[Array, ""]:
        first, second, third, fourth = jax.random.split(key, 4)
        level, eps = self.levels(first, self.schedule), normal(second, x0)
        cond = drop(third, label, self.null, self.dropout) if self.labelled else None
        inputs = self.parameterization.inputs(level.noise(x0, eps), level)

        def ask(cond, **options):
            return self.apply(params, *inputs, cond, **options, **training_options(self.apply, key))

        return jnp.mean(self.residual(ask, cond, self.parameterization.target(x0, eps, level), fourth) ** 2)

    def residual(self, ask: Callable, cond: Any, target: Float[Array, "*event"], key: Key[Array, ""]) -> Any:
        """What the loss makes small, where `ask(cond)` is the network's output at x_t."""
        return ask(cond) - target


@dataclass(frozen=True)
class NoisyCrossEntropy:
    """-log p(y | x_t) of a noisy classifier, in nats, at a random level. `apply(params, x, t) -> logits`."""

    apply: Callable
    schedule: Schedule
    levels: Callable = draw

    def __call__(
        self, params: Any, key: Key[Array, ""], x0: Float[Array, "*event"], label: Int[Array, ""]
    ) -> Float[Array, ""]:
        first, second = jax.random.split(key)
        level = self.levels(first, self.schedule)
        options = training_options(self.apply, key)
        logits = self.apply(params, level.noise(x0, normal(second, x0)), level.t, **options)
        return -jax.nn.log_softmax(logits.astype(jnp.float32))[label]


@dataclass(frozen=True)
class JudgeCrossEntropy:
    """-log p(y | x_0) of a clean classifier with dropout, in nats, the image shifted by up to one pixel.

    `apply(params, x, train, rngs) -> (logits, features)`.
    """

    apply: Callable

    def __call__(
        self, params: Any, key: Key[Array, ""], x0: Float[Array, "h w c"], label: Int[Array, ""]
    ) -> Float[Array, ""]:
        first, second = jax.random.split(key)
        dy, dx = jax.random.randint(first, (2,), 0, 3)
        padded = jnp.pad(x0, ((1, 1), (1, 1), (0, 0)), constant_values=-1.0)
        shifted = jax.lax.dynamic_slice(padded, (dy, dx, 0), x0.shape)
        logits, _ = self.apply(params, shifted, train=True, rngs={"dropout": second})
        return -jax.nn.log_softmax(logits)[label]
