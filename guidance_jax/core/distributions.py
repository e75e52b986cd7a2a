"""Distributions of a random step: `Stochastic` solvers return them, particle methods compute weights from them."""

from typing import Any

import jax.numpy as jnp

from guidance_jax._typing import Array, Float, Int, Key
from guidance_jax.core.arithmetic import kl_divergence, normal
from guidance_jax.core.edges import draw_token
from guidance_jax.core.pytrees import pytree


class Distribution:
    """The distribution p(x_s | x_t) of one sample, with draws and with a log-density in nats at any x_s."""

    def draw(self, key: Key[Array, ""]) -> Any:
        """Draw one x_s with `key`."""
        raise NotImplementedError

    def log_prob(self, x: Any) -> Any:
        """Return log p(x_s = x), a scalar in nats."""
        raise NotImplementedError

    def divergence(self, other: Any) -> Any:
        """Return KL(self || other), a scalar in nats."""
        raise NotImplementedError


@pytree
class Normal(Distribution):
    """The normal distribution N(mean, std^2 I). If `clean` is True, on the step to the clean level, x_s is the mean.

    `log_prob` omits the constant log(2 pi) / 2 per entry, which all transitions of one step share. On the step to the
    clean level the distributions are points; there `log_prob` and `divergence` are 0.

    Attributes:
      mean: the mean, (*event).
      std: the standard deviation, which broadcasts to (*event). It is also set on the step to the clean level, where
        guides that shift the mean use it.
      clean: whether x_s is the mean itself, without noise.
    """

    mean: Any
    std: Any
    clean: Any = False

    def draw(self, key: Key[Array, ""]) -> Float[Array, "*event"]:
        return self.mean + jnp.where(self.clean, 0, self.std) * normal(key, self.mean)

    def log_prob(self, x: Float[Array, "*event"]) -> Float[Array, ""]:
        noisy = (self.std > 0) & ~jnp.asarray(self.clean)
        std = jnp.where(noisy, self.std, 1)
        return jnp.sum(jnp.where(noisy, -0.5 * ((x - self.mean) / std) ** 2 - jnp.log(std), 0))

    def divergence(self, other: "Normal") -> Float[Array, ""]:
        noisy = (self.std > 0) & ~jnp.asarray(self.clean)
        own, std = jnp.where(noisy, self.std, 1), jnp.where(noisy, other.std, 1)
        each = jnp.log(std / own) + (own**2 + (self.mean - other.mean) ** 2) / (2 * std**2) - 0.5
        return jnp.sum(jnp.where(noisy, each, 0))

    def shift(self, shift: Any) -> "Normal":
        """Return the distribution with `shift` added to its mean."""
        return Normal(self.mean + shift, self.std, self.clean)


@pytree
class Categorical(Distribution):
    """Independent tokens at the L positions of a sequence.

    Attributes:
      log_q: the log-probabilities, (L, states), normalised over the states.
    """

    log_q: Any

    def draw(self, key: Key[Array, ""]) -> Int[Array, " L"]:
        return draw_token(key, self.log_q)

    def log_prob(self, x: Int[Array, " L"]) -> Float[Array, ""]:
        return jnp.sum(jnp.take_along_axis(self.log_q, x[:, None], 1))

    def divergence(self, other: "Categorical") -> Float[Array, ""]:
        return kl_divergence(self.log_q, other.log_q)
