"""Losses for ONE sequence of tokens; `fit` maps them over the batch. `loss(params, key, x0 (L,), label) -> scalar`.

The corruption is drawn once, and whatever looks at the noisy sequence (denoiser, value head) looks at the same one.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import log_softmax, normal, pytree, static
from guidance_jax.discrete.process import Absorbing, Diffusion
from guidance_jax.schedules import Schedule
from guidance_jax.training.losses import ConditionalLoss, Loss, draw


def cross_entropy(output: Any, label: Any) -> Any:
    """-log p(label), in nats, of the logits `output`."""
    return -log_softmax(output)[label]


def squared(output: Any, target: Any) -> Any:
    """The squared error of one predicted number, output (1,)."""
    return (output[0] - target) ** 2


@pytree
class TokenDenoising(ConditionalLoss):
    """The continuous-time bound per token, in nats: MDLM's for absorbing, UDLM's for uniform; with conditioning
    dropout.

    `apply(params, x, t, cond) -> logits (L, V)`, or (logits, value) with `value_weight` > 0, whose value head learns by
    `value_loss(value, label)` from the same corrupted sequence, as the value of NOS does.

    Attributes:
      apply: as above.
      process, schedule: of the corruption.
      null, dropout, labelled: of the condition, as in `ConditionalLoss`.
      value_weight, value_loss: of the value head.
      given: what the logits of uniform noise mean, "others" or "all", as in `TokenNetwork`; the network that samples
        says the same.
    """

    process: Diffusion = static()
    schedule: Schedule = static()
    value_weight: float = static(default=0.0, kw_only=True)
    value_loss: Callable = static(default=cross_entropy, kw_only=True)
    given: str = static(default="others", kw_only=True)

    def __call__(self, params: Any, key: Any, x0: Any, label: Any) -> Any:
        level_key, noise_key, dropout_key = jax.random.split(key, 3)
        level = draw(level_key, self.schedule)
        slope = jax.grad(lambda t: self.schedule(t).alpha)(level.t)
        x = self.process.corrupt(noise_key, x0, level)
        cond = self.condition(dropout_key, label)
        output = self.ask(params, key, x, level.t, cond)
        logits, value = output if self.value_weight > 0 else (output, None)
        log_p = log_softmax(logits)
        log_p = self.process.leave_one_out(log_p, x, level) if self.given == "all" else log_p
        loss = self.process.loss(log_p, x0, x, level, slope) / len(x0)
        return loss if value is None else loss + self.value_weight * self.value_loss(value, label)


@pytree
class Unrolled(ConditionalLoss):
    """SUNDAE's loss (Savinov et al. 2022, eq. 4): the second denoising starts from a draw of the first.

    `apply(params, x, t, cond) -> logits (L, V)`; the clock it is told is 0. Corruption is uniform at a uniform rate.

    Attributes:
      apply: as above.
      process, schedule: of the corruption.
      null, dropout, labelled: of the condition, as in `ConditionalLoss`.
    """

    process: Diffusion = static()
    schedule: Schedule = static()

    def __call__(self, params: Any, key: Any, x0: Any, label: Any) -> Any:
        level_key, noise_key, dropout_key, unroll_key = jax.random.split(key, 4)
        x = self.process.corrupt(noise_key, x0, draw(level_key, self.schedule))
        cond = self.condition(dropout_key, label)
        losses = []
        for k in jax.random.split(unroll_key):
            log_p = log_softmax(self.ask(params, key, x, jnp.zeros(()), cond))
            losses.append(-jnp.mean(jnp.take_along_axis(log_p, x0[:, None], 1)))
            x = jax.random.categorical(k, jax.lax.stop_gradient(log_p)).astype(x0.dtype)
        return jnp.mean(jnp.stack(losses))


@pytree
class NoisyTokens(Loss):
    """-log p(y | x_t) of a classifier of corrupted tokens, in nats. `apply(params, x, t) -> logits`.

    `value_loss` as in `TokenDenoising`, for regressors.

    Attributes:
      apply: as above.
      process, schedule: of the corruption.
      value_loss: value_loss(output, label), of one sequence.
    """

    process: Diffusion = static()
    schedule: Schedule = static()
    value_loss: Callable = static(default=cross_entropy)

    def __call__(self, params: Any, key: Any, x0: Any, label: Any) -> Any:
        level_key, noise_key = jax.random.split(key)
        level = draw(level_key, self.schedule)
        return self.value_loss(self.ask(params, key, self.process.corrupt(noise_key, x0, level), level.t), label)


@pytree
class DensityRatioMatching(Loss):
    """-log p(y | x_t with x0_l at l), mean over the masks, in nats: all neighbours at once, for `DensityRatio`.

    Guidance matching (arXiv 2509.21912) with the labels of the data in the place of a density ratio, and the
    cross-entropy for its Bregman divergence: the minimum is the same conditional expectation. `apply(params, x, t) ->
    logits (L, V, classes)`.

    Attributes:
      apply: as above.
      process, schedule: of the corruption.
    """

    process: Absorbing = static()
    schedule: Schedule = static()

    def __call__(self, params: Any, key: Any, x0: Any, label: Any) -> Any:
        level_key, noise_key = jax.random.split(key)
        level = draw(level_key, self.schedule)
        x = self.process.corrupt(noise_key, x0, level)
        log_p = log_softmax(self.ask(params, key, x, level.t))[jnp.arange(len(x0)), x0, label]
        free = self.process.free(x)
        return -jnp.sum(jnp.where(free, log_p, 0)) / jnp.maximum(jnp.sum(free), 1)


@pytree
class NextTokenLoss(ConditionalLoss):
    """A language model's loss per token, in nats, with conditioning dropout. `apply(params, x, cond) -> (logits,
    hidden)`.

    What follows the first `end` token does not count; None counts everything.

    Attributes:
      apply: as above.
      null, dropout, labelled: of the condition, as in `ConditionalLoss`.
      end: the token that ends a sequence.
    """

    end: int | None = static(default=None, kw_only=True)

    def __call__(self, params: Any, key: Any, x0: Any, label: Any) -> Any:
        cond = self.condition(key, label)
        log_p = log_softmax(self.ask(params, key, x0, cond)[0])
        own = jnp.take_along_axis(log_p[:-1], x0[1:, None], 1)[:, 0]
        counts = before_end(x0, self.end)[1:]
        return -jnp.sum(own * counts) / jnp.sum(counts)


@pytree
class Prefixes(Loss):
    """-log p(y | prefix), mean over all prefixes of a sequence: what FUDGE's discriminator learns.

    `apply(params, x) -> (logits (L, classes), hidden)`.

    Attributes:
      apply: as above.
      end: the token that ends a sequence: prefixes beyond it do not count; None counts all.
    """

    end: int | None = static(default=None, kw_only=True)

    def __call__(self, params: Any, key: Any, x0: Any, label: Any) -> Any:
        log_p = log_softmax(self.ask(params, key, x0)[0])[:, label]
        counts = before_end(x0, self.end)
        return -jnp.sum(log_p * counts) / jnp.sum(counts)


def before_end(x: Any, end: int | None) -> Any:
    """1 for the tokens up to and with the first `end`, 0 after it."""
    if end is None:
        return jnp.ones(x.shape)
    ended = jnp.cumsum((x == end) & (jnp.arange(len(x)) > 0))
    return ((ended == 0) | ((ended == 1) & (x == end))).astype(float)


@pytree
class Interpolation(ConditionalLoss):
    """CDCD's loss per token (Dieleman et al. 2022, arXiv 2211.15089, section 4): cross-entropy of noisy embeddings.

    `params` are {"network": ..., "table": (V, d)}: embeddings are learned, their rows normalised to length sqrt(d),
    which the cross-entropy keeps apart. `apply(params, x, t, cond, previous) -> logits`. In half of the draws the
    network sees its own first estimate, without a gradient through it (self-conditioning).

    Attributes:
      apply: as above.
      schedule: of the corruption.
      null, dropout, labelled: of the condition, as in `ConditionalLoss`.
      levels: levels(key, schedule) draws the training level.
    """

    schedule: Schedule = static()
    levels: Callable = static(default=draw, kw_only=True)

    def __call__(self, params: Any, key: Any, x0: Any, label: Any) -> Any:
        level_key, noise_key, dropout_key, guess_key = jax.random.split(key, 4)
        level, table = self.levels(level_key, self.schedule), unit_rows(params["table"])
        clean = table[x0]
        x = level.noise(clean, normal(noise_key, clean))
        cond = self.condition(dropout_key, label)

        def ask(previous):
            return log_softmax(self.ask(params["network"], key, x, level.t, cond, previous))

        blank = jnp.zeros_like(clean)
        seen = jax.lax.stop_gradient(jnp.exp(ask(blank)) @ table)
        log_p = ask(jnp.where(jax.random.bernoulli(guess_key), seen, blank))
        return -jnp.mean(jnp.take_along_axis(log_p, x0[:, None], 1))


@pytree
class EndToEnd(ConditionalLoss):
    """Diffusion-LM's loss (Li et al. 2022, arXiv 2205.14217, eq. 2): embeddings, denoiser and rounding learned
    together.

    |f(x_t) - x0|^2 + |x_T|^2's drift from the prior - log p(w | x0), x0 ~ N(e_w, small): `params` are {"network": ...,
    "table": (V, d)} and `apply(params, x, t, cond) -> x0 estimate (L, d)`; rounding is softmax(x0 table^T).

    Attributes:
      apply: as above.
      schedule: of the corruption.
      null, dropout, labelled: of the condition, as in `ConditionalLoss`.
      spread: the standard deviation of x0 around its embedding.
    """

    schedule: Schedule = static()
    spread: float = static(default=0.1, kw_only=True)

    def __call__(self, params: Any, key: Any, x0: Any, label: Any) -> Any:
        level_key, noise_key, dropout_key, spread_key = jax.random.split(key, 4)
        level, table = draw(level_key, self.schedule), params["table"]
        clean = table[x0] + self.spread * normal(spread_key, table[x0])
        cond = self.condition(dropout_key, label)
        guess = self.ask(params["network"], key, level.noise(clean, normal(noise_key, clean)), level.t, cond)
        last = self.schedule(jnp.asarray(self.schedule.start)).alpha * clean
        rounding = jnp.take_along_axis(log_softmax(clean @ table.T), x0[:, None], 1)
        return jnp.mean((guess - clean) ** 2) + jnp.mean(last**2) - jnp.mean(rounding)


def unit_rows(table: Any) -> Any:
    """Rows (V, d) of length sqrt(d), so that an embedding has the size of its noise."""
    return table * jax.lax.rsqrt(jnp.mean(table**2, 1, keepdims=True) + 1e-12)
