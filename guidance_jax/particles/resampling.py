"""Resampling: draw the indices of the particles that continue, from log-weights. On average i is copied n w_i times.

All are called as f(key, log_w (n,), in nats) -> indices (n,); the weights need not sum to one.

Douc, Cappe & Moulines 2005 (arXiv cs/0507025) compare them; systematic is the cheapest and usually varies least. `Beam`
is a search: it keeps the particles of largest weight, together with their weights.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from guidance_jax._typing import Array, Float, Int, Key
from guidance_jax.core import Refused


def _at(log_w, points):
    edges = jnp.cumsum(jax.nn.softmax(log_w))
    return jnp.clip(jnp.searchsorted(edges / edges[-1], points, side="right"), 0, len(log_w) - 1)


def systematic(key: Key[Array, ""], log_w: Float[Array, " n"]) -> Int[Array, " n"]:
    """Resample `log_w` at n points 1 / n apart, by one draw of `key`: floor(n w_i) or ceil(n w_i) copies of each i."""
    n = len(log_w)
    return _at(log_w, (jnp.arange(n) + jax.random.uniform(key, dtype=log_w.dtype)) / n)


def stratified(key: Key[Array, ""], log_w: Float[Array, " n"]) -> Int[Array, " n"]:
    """Resample `log_w` by one uniform draw of `key` in each of n equal strata of the weights."""
    n = len(log_w)
    return _at(log_w, (jnp.arange(n) + jax.random.uniform(key, (n,), log_w.dtype)) / n)


def multinomial(key: Key[Array, ""], log_w: Float[Array, " n"]) -> Int[Array, " n"]:
    """Resample `log_w` by n independent draws of `key`: the largest variance, the simplest theory."""
    return _at(log_w, jax.random.uniform(key, log_w.shape, log_w.dtype))


def residual(key: Key[Array, ""], log_w: Float[Array, " n"]) -> Int[Array, " n"]:
    """Resample `log_w` with floor(n w_i) certain copies of each i; the rest are independent draws of `key`."""
    n = len(log_w)
    shares = n * jax.nn.softmax(log_w)
    whole = jnp.floor(shares + 1e-6)
    certain = jnp.cumsum(whole)
    drawn = _at(jnp.log(jnp.maximum(shares - whole, 1e-30)), jax.random.uniform(key, (n,), log_w.dtype))
    kept = jnp.searchsorted(certain, jnp.arange(n), side="right")
    return jnp.where(jnp.arange(n) < certain[-1], jnp.minimum(kept, n - 1), drawn)


@dataclass(frozen=True)
class Beam:
    """Keep the `width` particles of largest weight, with n / width copies of each: beam search (Uehara et al. 2025,
    arXiv 2501.09685).

    `SMC(Steered(model, solver, reward), resample=Beam(2), threshold=1.0)` keeps the best 2 of a population at every
    step, by the reward of their clean estimates, and continues each n / 2 times. They keep their weights, so that
    `best()` is the best sample found. There is no evidence: `log_evidence` is NaN.

    Attributes:
      width: the number of particles that continue.

    Raises:
      Refused: a width below one, or above the number of particles.
    """

    width: int = 1

    def __call__(self, key: Key[Array, ""], log_w: Float[Array, " n"]) -> Int[Array, " n"]:
        """Return the indices of the particles that continue."""
        if not 1 <= self.width <= len(log_w):
            raise Refused(f"a beam must keep 1 to {len(log_w)} particles, got {self.width}; write Beam(1)")
        best = jnp.argsort(-log_w)[: self.width]
        return best[jnp.arange(len(log_w)) % self.width]
