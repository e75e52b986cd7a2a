"""Arithmetic on one sample that has to be safe under `jax.grad`: norms, quotients and logarithms that may meet 0."""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax._typing import Array, Float, Key
from guidance_jax.core.levels import Refused


def normal(key: Key[Array, ""], like: Float[Array, "*event"]) -> Float[Array, "*event"]:
    """Standard normal noise by `key`, of the shape and type of `like`: the one place where samplers draw it."""
    return jax.random.normal(key, like.shape, like.dtype)


def float_type(x: Any) -> Any:
    """The floating type that goes with a sample x: its own, or the default one for tokens."""
    dtype = jnp.result_type(x)
    return dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.result_type(float)


def norm(a: Float[Array, "..."]) -> Float[Array, ""]:
    """The Euclidean norm over all entries of one sample `a`, with derivative 0 at 0."""
    square = jnp.sum(a * a)
    return jnp.where(square == 0, 0, jnp.sqrt(jnp.where(square == 0, 1, square)))


def quotient(a: Any, b: Any) -> Any:
    """a / b, and 0 where b is 0."""
    return jnp.where(b == 0, 0, a / jnp.where(b == 0, 1, b))


def log(a: Any) -> Any:
    """The logarithm, -inf at 0 without a warning under `jax_debug_infs`."""
    return jnp.where(a <= 0, -jnp.inf, jnp.log(jnp.where(a <= 0, 1, a)))


def log_softmax(logits: Float[Array, "*positions classes"]) -> Float[Array, "*positions classes"]:
    """log p of all classes, or tokens, from their `logits`, in float32 or better whatever the network's type."""
    return jax.nn.log_softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))


def kl_divergence(p: Float[Array, "*positions V"], q: Float[Array, "*positions V"], where: Any = True) -> Any:
    """KL(p || q) of log-probabilities (..., V), in nats, summed over the positions `where`; 0 log 0 is 0."""
    there = p != -jnp.inf
    each = jnp.where(there, jnp.exp(p) * (jnp.where(there, p, 0) - jnp.where(there, q, 0)), 0)
    return jnp.sum(jnp.where(where, jnp.sum(each, -1), 0))


def scalar(value: Any, what: str) -> Any:
    """`value`, which must be one number for one sample; `what` gave it, for the refusal.

    Raises:
      Refused: an array.
    """
    if jnp.shape(value) != ():
        raise Refused(
            f"{what} must return one log-likelihood for one sample, got shape {jnp.shape(value)}; sum over the entries"
        )
    return value
