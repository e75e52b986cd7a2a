"""Resampling: from log-weights to the indices of the particles that go on; each copies i on average n w_i times.

All are called as f(key, log_w (n,), in nats) -> indices (n,); the weights need not sum to one.

Douc, Cappe & Moulines 2005 (arXiv cs/0507025) compare them; systematic is cheapest and usually varies least. `Beam` is
no resampling but a search: it prefers, and its weights say so.
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


@dataclass(frozen=True)
class Beam:
    """The `width` particles of most weight, each n / width times: beam search (Uehara et al. 2025, arXiv 2501.09685).

    `SMC(Steered(model, solver, reward), resample=Beam(2), threshold=1.0)` expands the best 2 of a population n / 2
    times at every step, by the reward of their clean estimates. What is chosen keeps its weight, so that `best()` is
    the best found; there is no evidence, `log_evidence` is nan.

    Attributes:
      width: how many go on.

    Raises:
      Refused: none that goes on, or more than there are.
    """

    width: int = 1

    def __call__(self, key: Key[Array, ""], log_w: Float[Array, " n"]) -> Int[Array, " n"]:
        """The indices that go on."""
        if not 1 <= self.width <= len(log_w):
            raise Refused(f"a beam keeps 1 to {len(log_w)} particles, got {self.width}; write Beam(1)")
        best = jnp.argsort(-log_w)[: self.width]
        return best[jnp.arange(len(log_w)) % self.width]
