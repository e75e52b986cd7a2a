"""NOS: guidance in hidden states (Gruver et al. 2023, arXiv 2305.20009, Algorithm 2), discrete and continuous.

    h' = h + delta,   delta <- delta + rate grad [ scale v(h + delta) - kl KL(p(. | h) || p(. | h + delta)) ] + noise

The published code decodes along another path than the one it optimises, and its "KL" is of raw logits. Here h + delta
passes through the same layers. The KL is of probabilities, summed over the positions that the model decides.
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
    """A guide of hidden states h: log p(label | h) from a head `apply(params, h) -> logits`.

    Attributes:
      params: a pytree of arrays.
      apply: the function of the hidden states of one sample.
    """

    params: Any
    apply: Callable = static()

    def log_prob(self, x, level, cond):
        return read_entry(log_softmax(self.apply(self.params, x)), cond)


@pytree
class NOS(Guidance):
    """Move hidden states towards a higher value, with a KL penalty that holds the prediction near the model.

    Scale 0 is the model. One encoding, `steps` + 2 decodings and `steps` gradients through the decoder per sampling
    step.

    Attributes:
      inner: a `HiddenNetwork` (NOS-D, `decode` over tokens) or an `EmbeddingNetwork` with hidden states (NOS-C).
      value: a `Guide` of hidden states, or f(h, level, cond) -> scalar, for example a value head's log p(y | h).
      scale: the weight of the value: a number, `Window`, or a function of the level.
      steps: the number of ascent steps.
      rate: the step length, in units of h.
      kl: the weight of the KL, per nat.
      noise: the temperature of the Langevin noise sqrt(2 rate noise) z; the paper's algorithm has 1, its code 0.
      adagrad: whether Adagrad scales the steps, as published. False takes plain gradient steps, as Langevin dynamics
        do.

    Raises:
      Refused: a model without hidden states; a value that is not one number; a guide of samples, not hidden states.
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
            raise Refused(f"the value of NOS must take hidden states, got {type(own).__name__}, which takes samples")
        super().check(levels, shape, cond)

    def __call__(self, x, level, cond, state, key):
        w, on = strength(self.scale, level, cond, off=0.0), active(self.scale, level)
        h = self.inner.hidden(x, level, cond)
        # without the skip Adagrad would turn rounding errors in the KL's gradient into full steps
        h = when(w != 0 if on is None else on, lambda: self.climb(h, w, x, level, cond, key), lambda: h)
        return self.inner.read(self.inner.logits_of(h, level, cond), x, level), state

    def climb(self, h, w, x, level, cond, key):
        """Return h + delta after `steps` steps."""
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
