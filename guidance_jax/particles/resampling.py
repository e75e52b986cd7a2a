"""Resampling: from log-weights to the indices of the particles that go on; each copies i on average n w_i times.

All are called as f(key, log_w (n,), in nats) -> indices (n,); the weights need not sum to one.

Douc, Cappe & Moulines 2005 (arXiv cs/0507025) compare them; systematic is cheapest and usually varies least.
"""

import jax
import jax.numpy as jnp

from guidance_jax._typing import Array, Float, Int, Key


def _at(log_w, points):
    edges = jnp.cumsum(jax.nn.softmax(log_w))
    return jnp.clip(jnp.searchsorted(edges / edges[-1], points, side="right"), 0, len(log_w) - 1)


def systematic(key: Key[Array, ""], log_w: Float[Array, " n"]) -> Int[Array, " n"]:
    """One uniform draw by `key`, n points 1 / n apart: i is copied floor(n w_i) or ceil(n w_i) times, w of `log_w`."""
    n = len(log_w)
    return _at(log_w, (jnp.arange(n) + jax.random.uniform(key, dtype=log_w.dtype)) / n)


def stratified(key: Key[Array, ""], log_w: Float[Array, " n"]) -> Int[Array, " n"]:
    """One uniform draw by `key` in each of n equal strata of the weights of `log_w`."""
    n = len(log_w)
    return _at(log_w, (jnp.arange(n) + jax.random.uniform(key, (n,), log_w.dtype)) / n)


def multinomial(key: Key[Array, ""], log_w: Float[Array, " n"]) -> Int[Array, " n"]:
    """n independent draws by `key` from `log_w`: the most variance, the simplest theory."""
    return _at(log_w, jax.random.uniform(key, log_w.shape, log_w.dtype))


def residual(key: Key[Array, ""], log_w: Float[Array, " n"]) -> Int[Array, " n"]:
    """floor(n w_i) copies of each of `log_w` for certain, the rest by independent draws by `key` from what is left."""
    n = len(log_w)
    shares = n * jax.nn.softmax(log_w)
    whole = jnp.floor(shares + 1e-6)
    certain = jnp.cumsum(whole)
    drawn = _at(jnp.log(jnp.maximum(shares - whole, 1e-30)), jax.random.uniform(key, (n,), log_w.dtype))
    kept = jnp.searchsorted(certain, jnp.arange(n), side="right")
    return jnp.where(jnp.arange(n) < certain[-1], jnp.minimum(kept, n - 1), drawn)
