"""NOS: guidance in hidden states (Gruver et al. 2023, arXiv 2305.20009, Algorithm 2), discrete and continuous.

    h' = h + delta,   delta <- delta + rate grad [ scale v(h + delta) - kl KL(p(. | h) || p(. | h + delta)) ] + noise

Differs from the published code, which decodes another path than it optimises and takes the "KL" of raw logits: here the
KL is of probabilities, summed over the positions that the model decides, and h + delta goes on through the same layers.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import (
    Guide,
    HiddenStates,
    Refused,
    Space,
    as_guide,
    converted,
    innermost,
    kl_divergence,
    log_softmax,
    need,
    pytree,
    read_entry,
    static,
)
from guidance_jax.guidance.base import Guidance
from guidance_jax.guidance.scales import active, strength, when
from guidance_jax.models.network import Parametrized


@pytree
class ValueHead(Parametrized, Guide):
    """log p(label | h) of a head `apply(params, h) -> logits` on hidden states: the value of a class.

    Attributes:
      params: a pytree of arrays.
      apply: the function, of the hidden states of one sample.
    """

    params: Any
    apply: Callable = static()

    def log_prob(self, x, level, cond):
        return read_entry(log_softmax(self.apply(self.params, x)), cond)


@pytree
class NOS(Guidance):
    """Hidden states moved towards a value, held back by the KL to the model; scale 0 (without noise) is the model.

    1 encoding, steps + 1 decodings and gradients of the rest of the network.

    Attributes:
      inner: a `HiddenNetwork` (NOS-D, `decode` over tokens) or an `EmbeddingNetwork` with hidden states (NOS-C).
      value: a `Guide` of hidden states, or f(h, level, cond) -> scalar, for example a value head's log p(y | h).
      scale: of the value: a number, `Window`, or a function of the level.
      steps: of the ascent.
      rate: their length, in units of h.
      kl: weight of the KL, per nat.
      noise: temperature of Langevin noise, sqrt(2 rate noise) z; the paper's algorithm has 1, its code 0.
      adagrad: as published; otherwise plain gradient steps, for which noise is Langevin's.

    Raises:
      Refused: a model without hidden states; a value that is not one number, or of samples.
    """

    inner: Any
    value: Any = converted(as_guide)
    scale: Any
    rate: Any = 0.1
    kl: Any = 0.01
    noise: Any = 0.0
    steps: int = static(default=5)
    adagrad: bool = static(default=True)

    wraps = HiddenStates

    def check(self, levels, shape, cond):
        need(self, self.value, Guide, "the value")
        if (own := innermost(self.value)).takes is not Space:
            raise Refused(f"the value of NOS is of hidden states, got {type(own).__name__}, which judges samples")
        super().check(levels, shape, cond)

    def __call__(self, x, level, cond, state, key):
        w, on = strength(self.scale, level, cond, off=0.0), active(self.scale, level)
        h = self.inner.hidden(x, level, cond)
        # a KL whose gradient is rounding alone would be a full step to Adagrad
        h = when(w != 0 if on is None else on, lambda: self.climb(h, w, x, level, cond, key), lambda: h)
        return self.inner.read(self.inner.logits_of(h, level, cond), x, level), state

    def climb(self, h, w, x, level, cond, key):
        """h + delta after `steps` steps."""
        where = self.space.free(x)
        moves = where.reshape(-1, *[1] * (h.ndim - 1)) if h.shape[:1] == where.shape else True
        base = log_softmax(self.inner.logits_of(h, level, cond))

        def objective(delta):
            new = log_softmax(self.inner.logits_of(h + delta, level, cond))
            return w * self.value.value(h + delta, level, cond) - self.kl * kl_divergence(base, new, where)

        def step(carry, key):
            delta, squares = carry
            g = jnp.where(moves, jax.grad(objective)(delta), 0)
            squares = squares + g**2
            size = jax.lax.rsqrt(squares + 1e-20) if self.adagrad else 1.0
            z = jnp.where(moves, jax.random.normal(key, g.shape, g.dtype), 0)
            return (delta + self.rate * size * g + jnp.sqrt(2 * self.rate * self.noise) * z, squares), None

        zero = jnp.zeros_like(h)
        (delta, _), _ = jax.lax.scan(step, (zero, zero), jax.random.split(key, self.steps))
        return h + delta
