"""Numbers at the edge: one rule for each kind of sample, for the draws, tables and searches of the library.

    images, vectors   a number that is not finite stays NaN or infinite, in its own sample
    tokens, text      a draw without a distribution gives `FAILED`, and a sample that holds one becomes all `FAILED`
    tables            an index outside the table reads NaN, traced or not, where JAX would read a neighbour

So what has met such a number never looks like a sample; `count_failed` says how many have.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core.levels import Refused

FAILED = -2  # the token of samples that met a number which is not finite; -1 means "free" in infilling
BOUND = 1e6  # entries of images or vectors beyond it have left any data


def draw_token(key: Any, log_q: Any) -> Any:
    """Draw by `key` an index over the last axis of `log_q` (..., V), log-weights; `FAILED` where it is no distribution.

    It is none if one of them is NaN or +inf, or all are -inf.
    """
    return _unless_failed(jax.random.categorical(key, log_q), log_q)


def argmax_token(log_q: Any) -> Any:
    """The index of the largest of `log_q` (..., V) over the last axis; `FAILED` as in `draw_token`."""
    return _unless_failed(jnp.argmax(log_q, -1), log_q)


def _unless_failed(token: Any, log_q: Any) -> Any:
    return jnp.where(jnp.isfinite(jnp.max(log_q, -1)), token, FAILED).astype(jnp.int32)


def add_logs(log_p: Any, gain: Any) -> Any:
    """log_p + gain, where what `log_p` says is impossible (-inf) stays so whatever `gain` is: NaN and inf included."""
    return jnp.where(log_p == -jnp.inf, -jnp.inf, jnp.where(gain == jnp.inf, jnp.nan, log_p + gain))


def nan_unless(known: Any, value: Any) -> Any:
    """`value` where `known`, else NaN: by a product, so that gradients are NaN too, which `jnp.where` makes 0."""
    return value * jnp.where(known, 1.0, jnp.nan).astype(value.dtype)


def read_entry(table: Any, index: Any) -> Any:
    """table[index] on the first axis, NaN where `index`, one integer, is outside: negative or beyond the end.

    Raises:
      Refused: an index that is not one integer.
    """
    index = jnp.asarray(index)
    if index.ndim or not jnp.issubdtype(index.dtype, jnp.integer):
        raise Refused(
            f"a label is one integer for one sample, got {index.dtype} of shape {index.shape}; pass labels (n,)"
        )
    inside = (index >= 0) & (index < len(table))
    return nan_unless(inside, jnp.asarray(table)[jnp.where(inside, index, 0)])


def is_sound(x: Any) -> Any:
    """Whether one sample `x` holds neither a number that is not finite nor `FAILED`; a scalar."""
    sound = jnp.isfinite(x) if jnp.issubdtype(jnp.result_type(x), jnp.floating) else x != FAILED
    return jnp.all(sound)


def keep_failed(x: Any, before: Any) -> Any:
    """Tokens `x` (L,), all `FAILED` if one of them or of those `before` is; images and vectors as they are."""
    if not jnp.issubdtype(jnp.result_type(x), jnp.integer):
        return x
    return jnp.where(is_sound(x) & is_sound(before), x, FAILED).astype(x.dtype)


def count_failed(samples: Any) -> int:
    """How many of `samples` (n, ...) are `FAILED`, hold a number that is not finite, or one beyond a million."""
    rows = np.asarray(samples).reshape(len(samples), -1)
    if np.issubdtype(rows.dtype, np.integer):
        bad = (rows == FAILED) & np.issubdtype(rows.dtype, np.signedinteger)
    else:
        bad = ~(np.abs(rows.astype(np.float32)) <= BOUND)
    return int(bad.any(1).sum())


def check_finite(values: Any, what: str = "features") -> np.ndarray:
    """`values` (n, ...) in float64.

    Raises:
      Refused: rows that are not finite, with their number.
    """
    array = np.asarray(values, np.float64)
    bad = int((~np.isfinite(array).all(tuple(range(1, array.ndim)))).sum())
    if bad:
        raise Refused(
            f"{bad} of {len(array)} {what} are not finite; leave these samples out and say how many they were"
        )
    return array
