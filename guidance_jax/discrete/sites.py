"""Which positions a Gibbs corrector draws again: functions that return a preference for each position.

Only `uniformly` keeps the distribution invariant; a choice that depends on the sequence does not.
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax._typing import Array, Float


def uniformly(log_p: Any, x: Any) -> Float[Array, " L"]:
    """Prefer no position: this keeps the distribution invariant if one site is drawn at a time.

    Args:
      log_p: (L, V), log-probabilities of each token given all others.
      x: (L,), the sequence.
    """
    return jnp.zeros(len(x))


def lowest_current(log_p: Any, x: Any) -> Float[Array, " L"]:
    """Prefer positions whose token is improbable: -log p(x_l | the others).

    Args:
      log_p, x: as in `uniformly`.
    """
    return -jnp.take_along_axis(log_p, x[:, None], 1)[:, 0]


def lowest_maximum(log_p: Any, x: Any) -> Float[Array, " L"]:
    """Prefer positions where no token is probable: -max_v log p(v | the others).

    Args:
      log_p, x: as in `uniformly`.
    """
    return -jnp.max(log_p, 1)


def lowest_margin(log_p: Any, x: Any) -> Float[Array, " L"]:
    """Prefer positions where another token is more probable: max over v != x_l of log p(v) - log p(x_l).

    Args:
      log_p, x: as in `uniformly`.
    """
    own = jax.nn.one_hot(x, log_p.shape[1], dtype=bool)
    return jnp.max(jnp.where(own, -jnp.inf, log_p), 1) + lowest_current(log_p, x)
