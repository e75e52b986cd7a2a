"""Losses for ONE sequence of tokens; `fit` maps them over the batch. `loss(params, key, x0 (L,), label) -> scalar`.

The noisy sequence is drawn once per call; denoiser and value head are trained on the same one. L is the length of the
sequence, V the size of the vocabulary.
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
    """Return -log p(label), in nats, from the logits `output`."""
    return -log_softmax(output)[label]


def squared(output: Any, target: Any) -> Any:
    """Return the squared error of one predicted number; `output` has shape (1,)."""
    return (output[0] - target) ** 2


@pytree
class TokenDenoising(ConditionalLoss):
    """Train a token denoiser by the continuous-time bound per token, in nats, with conditioning dropout.

    The bound is MDLM's for `Absorbing` and UDLM's for `Uniform`.

    Attributes:
      apply: apply(params, x, t, cond) -> logits (L, V). With `value_weight` > 0 it returns (logits, value), the value
        of the same corrupted sequence, as in NOS.
      process: the corruption process.
      schedule: its schedule.
      null, dropout, labelled: as in `ConditionalLoss`.
      value_weight: the weight of the value head's loss; 0 for no value head.
      value_loss: value_loss(value, label) -> the value head's loss.
      given: "others" or "all", the tokens that the logits of uniform noise are conditioned on, see `TokenNetwork`.
        Sample with the same `given`.
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
    """Train by SUNDAE's loss (Savinov et al. 2022, eq. 4), the mean cross-entropy of two denoising steps, in nats.

    The second step starts from tokens drawn from the first prediction. In the paper the corruption is uniform, at a
    uniform rate.

    Attributes:
      apply: apply(params, x, t, cond) -> logits (L, V); t is always 0.
      process: the corruption process.
      schedule: its schedule.
      null, dropout, labelled: as in `ConditionalLoss`.
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
    """Train a classifier of corrupted tokens by -log p(y | x_t), in nats, or a regressor by another `value_loss`.

    Attributes:
      apply: apply(params, x, t) -> output: logits, or a regressor's (1,).
      process: the corruption process.
      schedule: its schedule.
      value_loss: value_loss(output, label) of one sequence: `cross_entropy` by default, `squared` for a regressor.
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
    """Train the classifier of `DensityRatio` by -log p(y | x_t with x0_l at l), averaged over the masks l, in nats.

    One call classifies all sequences that differ from x_t in one mask. This is guidance matching (arXiv 2509.21912)
    with the data's labels instead of a density ratio, and the cross-entropy as its Bregman divergence. The minimum is
    the same conditional expectation.

    Attributes:
      apply: apply(params, x, t) -> logits (L, V, classes).
      process: the corruption process.
      schedule: its schedule.
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
    """Train a language model by -log p of the next token, averaged over the tokens, in nats, with conditioning dropout.

    Attributes:
      apply: apply(params, x, cond) -> (logits (L, V), hidden).
      null, dropout, labelled: as in `ConditionalLoss`.
      end: the token that ends a sequence: tokens after the first one do not count. None counts all.
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
    """Train FUDGE's discriminator by -log p(y | prefix), averaged over all prefixes of a sequence, in nats.

    Attributes:
      apply: apply(params, x) -> (logits (L, classes), hidden); row i reads the tokens up to i.
      end: the token that ends a sequence: longer prefixes do not count. None counts all.
    """

    end: int | None = static(default=None, kw_only=True)

    def __call__(self, params: Any, key: Any, x0: Any, label: Any) -> Any:
        log_p = log_softmax(self.ask(params, key, x0)[0])[:, label]
        counts = before_end(x0, self.end)
        return -jnp.sum(log_p * counts) / jnp.sum(counts)


def before_end(x: Any, end: int | None) -> Any:
    """Return 1 for the tokens up to the first `end` after position 0, that one included, and 0 after it."""
    if end is None:
        return jnp.ones(x.shape)
    ended = jnp.cumsum((x == end) & (jnp.arange(len(x)) > 0))
    return ((ended == 0) | ((ended == 1) & (x == end))).astype(float)


@pytree
class Interpolation(ConditionalLoss):
    """Train by CDCD's loss (Dieleman et al. 2022, arXiv 2211.15089, section 4): cross-entropy of the clean tokens.

    The network predicts them from noisy embeddings; the loss is in nats per token. `params` are {"network": ...,
    "table": (V, d)}: the embeddings are learned too. Their rows are normalised to length sqrt(d), and the
    cross-entropy keeps them apart. In half of the draws the network sees its own first estimate, without a gradient
    through it (self-conditioning).

    Attributes:
      apply: apply(params, x, t, cond, previous) -> logits (L, V); `params` is the entry "network", `previous` (L, d)
        the first estimate or zeros.
      schedule: the schedule of the noise that is added to the embeddings.
      null, dropout, labelled: as in `ConditionalLoss`.
      levels: levels(key, schedule) -> the training level; by default its clock is uniform.
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
    """Train embeddings, denoiser and rounding together (Diffusion-LM, Li et al. 2022, arXiv 2205.14217, eq. 2).

    The loss is |f(x_t) - x0|^2 + |alpha_T x0|^2 - log p(w | x0) with x0 ~ N(e_w, spread^2). Squares are averaged over
    all numbers, the last term over the tokens w. The second term keeps x_T near the prior.

    `params` are {"network": ..., "table": (V, d)}, where row w of the table is e_w. Rounding is p(w | x0) =
    softmax(x0 table^T).

    Attributes:
      apply: apply(params, x, t, cond) -> estimate of x0, (L, d); `params` is the entry "network".
      schedule: the schedule of the noise that is added to x0.
      null, dropout, labelled: as in `ConditionalLoss`.
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
    """Scale each row of `table` (V, d) to length sqrt(d), so that an embedding is as large as its noise."""
    return table * jax.lax.rsqrt(jnp.mean(table**2, 1, keepdims=True) + 1e-12)
