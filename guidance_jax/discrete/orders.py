"""Unmasking orders: how confident a masked model is of each position. `PlannedUnmasking` reveals the most confident.

An order maps log p (L, V), the tokens that were drawn (L,) and a key to one confidence per position (L,). Four of the
five below depend on the masked sequence alone. Revealing one token per step in such an order samples the model's
distribution exactly: each sequence has only one path, which multiplies exact conditionals. `low_confidence`
depends on the drawn tokens, and samples another distribution.
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax._typing import Array, Float


def max_probability(log_p: Any, drawn: Any, key: Any) -> Float[Array, " L"]:
    """Return the probability of the most probable token: max_v p_l(v).

    Args:
      log_p: (L, V), normalised log-probabilities of every position.
      drawn: (L,), the tokens drawn for every position; not used.
      key: a random key; not used.

    >>> import jax.numpy as jnp
    >>> found = max_probability(jnp.log(jnp.array([[0.5, 0.5], [0.1, 0.9]])), None, None)
    >>> [round(float(c), 3) for c in found]
    [0.5, 0.9]
    """
    return jnp.exp(jnp.max(log_p, -1))


def margin(log_p: Any, drawn: Any, key: Any) -> Float[Array, " L"]:
    """Return the probability of the most probable token minus that of the second: Dream's `topk_margin`.

    Args:
      log_p, drawn, key: as in `max_probability`.
    """
    first, second = jnp.moveaxis(jax.lax.top_k(jnp.exp(log_p), 2)[0], -1, 0)
    return first - second


def entropy(log_p: Any, drawn: Any, key: Any) -> Float[Array, " L"]:
    """Return the negative entropy: sum_v p_l(v) log p_l(v), in nats.

    Args:
      log_p, drawn, key: as in `max_probability`.
    """
    return jnp.sum(jnp.exp(log_p) * jnp.where(log_p == -jnp.inf, 0, log_p), -1)


def random(log_p: Any, drawn: Any, key: Any) -> Float[Array, " L"]:
    """Return uniform random numbers, which give a random order.

    Args:
      log_p, drawn: as in `max_probability`.
      key: the random key that draws the numbers.
    """
    return jax.random.uniform(key, log_p.shape[:1])


def low_confidence(log_p: Any, drawn: Any, key: Any) -> Float[Array, " L"]:
    """Return the probability of the drawn token, p_l(drawn_l), as LLaDA and MaskGIT do ("low-confidence remasking").

    At temperature 0 it equals `max_probability`. At temperature 1 it prefers positions that drew a probable token, so
    that even one token per step does not sample the model's distribution.

    Args:
      log_p, drawn, key: as in `max_probability`.
    """
    own = jnp.take_along_axis(log_p, jnp.clip(drawn, 0)[:, None], 1)[:, 0]
    return jnp.exp(own)
