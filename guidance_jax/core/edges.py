"""What happens to numbers that are not finite and to indices out of range, in every draw, argmax and table.

    images, vectors   a number that is not finite stays NaN or infinite, in its own sample
    tokens, text      a draw from invalid log-weights gives `FAILED`, and a sample with one becomes all `FAILED`
    tables            an index outside the table reads NaN, traced or not, where JAX would read a neighbour

So a sample that met such a number never looks like a valid one. `count_failed` counts these samples.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core.levels import Refused

FAILED = -2  # the token of samples that met a number which is not finite; -1 means "free" in infilling
BOUND = 1e6  # an image or vector with an entry beyond this magnitude counts as failed


def draw_token(key: Any, log_q: Any) -> Any:
    """Draw with `key` an index over the last axis of the log-weights `log_q` (..., V).

    The index is `FAILED` where the log-weights are invalid: one is NaN or +inf, or all are -inf.
    """
    return _unless_failed(jax.random.categorical(key, log_q), log_q)


def argmax_token(log_q: Any) -> Any:
    """Return the index of the largest of `log_q` (..., V) over the last axis; `FAILED` as in `draw_token`."""
    return _unless_failed(jnp.argmax(log_q, -1), log_q)


def _unless_failed(token: Any, log_q: Any) -> Any:
    return jnp.where(jnp.isfinite(jnp.max(log_q, -1)), token, FAILED).astype(jnp.int32)


def add_logs(log_p: Any, gain: Any) -> Any:
    """Return log_p + gain. Where `log_p` is -inf (impossible) the sum stays -inf, even if `gain` is NaN or inf.

    Elsewhere a gain of +inf gives NaN.
    """
    return jnp.where(log_p == -jnp.inf, -jnp.inf, jnp.where(gain == jnp.inf, jnp.nan, log_p + gain))


def nan_unless(known: Any, value: Any) -> Any:
    """Return `value` where `known`, else NaN. It is a product, so gradients are NaN too; `jnp.where` would give 0."""
    return value * jnp.where(known, 1.0, jnp.nan).astype(value.dtype)


def read_entry(table: Any, index: Any) -> Any:
    """Return table[index] on the first axis, for one integer `index`; NaN if `index` is negative or beyond the end.

    Raises:
      Refused: if `index` is not one integer.
    """
    index = jnp.asarray(index)
    if index.ndim or not jnp.issubdtype(index.dtype, jnp.integer):
        raise Refused(
            f"a label is one integer for one sample, got {index.dtype} of shape {index.shape}; pass labels of shape "
            "(n,)"
        )
    inside = (index >= 0) & (index < len(table))
    return nan_unless(inside, jnp.asarray(table)[jnp.where(inside, index, 0)])


def is_sound(x: Any) -> Any:
    """Return whether all numbers of one sample `x` are finite, or all its tokens are other than `FAILED`; a scalar."""
    sound = jnp.isfinite(x) if jnp.issubdtype(jnp.result_type(x), jnp.floating) else x != FAILED
    return jnp.all(sound)


def keep_failed(x: Any, before: Any) -> Any:
    """Return the tokens `x` (L,), all set to `FAILED` if a token of `x` or `before` is. Images and vectors stay."""
    if not jnp.issubdtype(jnp.result_type(x), jnp.integer):
        return x
    return jnp.where(is_sound(x) & is_sound(before), x, FAILED).astype(x.dtype)


def count_failed(samples: Any) -> int:
    """Count the `samples` (n, ...) with a token `FAILED`, a number that is not finite, or one beyond a million."""
    rows = np.asarray(samples).reshape(len(samples), -1)
    if np.issubdtype(rows.dtype, np.integer):
        bad = (rows == FAILED) & np.issubdtype(rows.dtype, np.signedinteger)
    else:
        bad = ~(np.abs(rows.astype(np.float32)) <= BOUND)
    return int(bad.any(1).sum())


def check_finite(values: Any, what: str = "features") -> np.ndarray:
    """Return `values` (n, ...) in float64.

    Raises:
      Refused: if rows are not finite; the error gives their number.
    """
    array = np.asarray(values, np.float64)
    bad = int((~np.isfinite(array).all(tuple(range(1, array.ndim)))).sum())
    if bad:
        raise Refused(
            f"{bad} of {len(array)} {what} are not finite; remove these samples and report how many there were"
        )
    return array
