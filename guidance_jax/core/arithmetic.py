"""Arithmetic on one sample that is safe under `jax.grad`: norms, quotients and logarithms whose argument may be 0."""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax._typing import Array, Float, Key
from guidance_jax.core.levels import Refused


def normal(key: Key[Array, ""], like: Float[Array, "*event"]) -> Float[Array, "*event"]:
    """Draw standard normal noise with `key`, in the shape and dtype of `like`."""
    return jax.random.normal(key, like.shape, like.dtype)


def float_type(x: Any) -> Any:
    """Return the floating dtype for a sample x: its own dtype, or JAX's default if x holds tokens."""
    dtype = jnp.result_type(x)
    return dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.result_type(float)


def norm(a: Float[Array, "..."]) -> Float[Array, ""]:
    """Return the Euclidean norm over all entries of one sample `a`. Its derivative at 0 is 0."""
    square = jnp.sum(a * a)
    return jnp.where(square == 0, 0, jnp.sqrt(jnp.where(square == 0, 1, square)))


def quotient(a: Any, b: Any) -> Any:
    """Return a / b, and 0 where b is 0."""
    return jnp.where(b == 0, 0, a / jnp.where(b == 0, 1, b))


def log(a: Any) -> Any:
    """Return log(a), and -inf with derivative 0 where a <= 0."""
    return jnp.where(a <= 0, -jnp.inf, jnp.log(jnp.where(a <= 0, 1, a)))


def log_softmax(logits: Float[Array, "*positions classes"]) -> Float[Array, "*positions classes"]:
    """Return log p of all classes or tokens from their `logits`, in float32 or better whatever the network's dtype."""
    return jax.nn.log_softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))


def kl_divergence(p: Float[Array, "*positions V"], q: Float[Array, "*positions V"], where: Any = True) -> Any:
    """Return KL(p || q) of log-probabilities (..., V), in nats, summed over the positions `where`; 0 log 0 is 0."""
    there = p != -jnp.inf
    each = jnp.where(there, jnp.exp(p) * (jnp.where(there, p, 0) - jnp.where(there, q, 0)), 0)
    return jnp.sum(jnp.where(where, jnp.sum(each, -1), 0))


def scalar(value: Any, what: str) -> Any:
    """Return `value`, which must be one number for one sample. `what` names its source in the error.

    Raises:
      Refused: if `value` has a shape other than ().
    """
    if jnp.shape(value) != ():
        raise Refused(
            f"{what} must return one log-likelihood for one sample, got shape {jnp.shape(value)}; sum over the entries"
        )
    return value
