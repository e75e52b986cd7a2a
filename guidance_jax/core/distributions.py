"""A random step is a distribution: what `Stochastic` solvers give, and particle methods weigh."""

from typing import Any

import jax.numpy as jnp

from guidance_jax._typing import Array, Float, Int, Key
from guidance_jax.core.arithmetic import kl_divergence, normal
from guidance_jax.core.edges import draw_token
from guidance_jax.core.pytrees import pytree


class Distribution:
    """p(x_s | x_t) of one sample: something to draw from, and the log-density, in nats, of what another one drew."""

    def draw(self, key: Key[Array, ""]) -> Any:
        """One x_s."""
        raise NotImplementedError

    def log_prob(self, x: Any) -> Any:
        """log p(x_s = x), a scalar."""
        raise NotImplementedError

    def divergence(self, other: Any) -> Any:
        """KL(self || other), in nats, a scalar."""
        raise NotImplementedError


@pytree
class Normal(Distribution):
    """N(mean, std^2 I). On the step to the clean level no noise is drawn: `clean` is True, x_s is the mean.

    `log_prob` leaves out what all transitions of one step share, and is 0 at the clean level, where they are points; so
    is `divergence`.

    Attributes:
      mean: (*event).
      std: broadcasts to (*event); also at the clean level, where guides that shift the mean use it.
      clean: whether x_s is the mean itself.
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
        """The same spread around another mean."""
        return Normal(self.mean + shift, self.std, self.clean)


@pytree
class Categorical(Distribution):
    """Every position of a sequence by itself.

    Attributes:
      log_q: (L, states), log-probabilities, normalised over the states.
    """

    log_q: Any

    def draw(self, key: Key[Array, ""]) -> Int[Array, " L"]:
        return draw_token(key, self.log_q)

    def log_prob(self, x: Int[Array, " L"]) -> Float[Array, ""]:
        return jnp.sum(jnp.take_along_axis(self.log_q, x[:, None], 1))

    def divergence(self, other: "Categorical") -> Float[Array, ""]:
        return kl_divergence(self.log_q, other.log_q)
