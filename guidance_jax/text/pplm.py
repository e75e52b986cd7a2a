"""PPLM: plug and play language models (Dathathri et al. 2020, arXiv 1912.02164, section 3.2 and 3.3).

    delta <- delta + rate g / |g|^gamma,   g = grad [ log p(a | h) - kl KL(p || p_0) ],   per layer of keys and values
    p is proportional to p_delta^fusion p_0^(1 - fusion)

With `ahead`, as in the authors' code (a horizon of one), a discriminator's mean hidden state includes the next token,
whose embedding is the expectation under p_delta. Without it the prefix alone can satisfy the discriminator. As
published, delta starts at zero for every token, and the window is the most recent positions. (The authors' code masks
the oldest and accumulates delta in the cache.) So p_0 is the unguided model at every step.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import Refused, converted, function, kl_divergence, norm, pytree, quotient, scalar, static
from guidance_jax.core.contracts import check_arguments
from guidance_jax.guidance.base import Guidance
from guidance_jax.guidance.scales import strength
from guidance_jax.text.language_model import Memory, after
from guidance_jax.text.sequence import LeftToRight


@pytree
class PPLM(Guidance):
    """Take gradient steps on a language model's cache, anew for every token; scale 0 (or rate 0) is the model.

    `steps` + 2 calls of the model and `steps` gradients per token; with `ahead`, 2 `steps` + 2 and 2 `steps`.

    Attributes:
      inner: a `LanguageModel`, whose cache is changed. The authors draw with `Ancestral(top_k=10)`.
      attribute: attribute(log_p (V,), hidden (width,), cond) -> scalar log p(a | ...). It reads the next token's log_p
        (a bag of words: log of its mass) or the mean hidden state of the prefix, this token included (a discriminator).
      ahead: whether the mean includes the expected next token.
      scale: the weight of log p(a | .): a number, or a function of the level.
      rate: the step length, in units of the cache.
      steps: the number of steps.
      gamma: the power of the norm that a layer's gradient is divided by; 1 makes every step as long as `rate`.
      kl: the weight of KL(p || p_0), per nat.
      fusion: share of the steered distribution in the geometric mean with the model's own, 0 to 1.
      window: the number of most recent positions that may change; None for all.

    Raises:
      Refused: a negative gamma; a model without a cache, or with `ahead` one that cannot read expected tokens.
    """

    inner: Any
    attribute: Any = converted(function)
    scale: Any = 1.0
    rate: Any = 0.03
    kl: Any = 0.01
    fusion: Any = 0.9
    gamma: Any = 1.0
    window: int | None = static(default=None)
    steps: int = static(default=3)
    ahead: bool = static(default=False)

    takes = LeftToRight

    def __post_init__(self):
        if isinstance(self.gamma, int | float) and self.gamma < 0:
            raise Refused(f"gamma, the power of the norm to divide by, must not be negative, got {self.gamma}")
        check_arguments(self, self.attribute, "log_p, hidden, cond")

    def check(self, levels, shape, cond):
        super().check(levels, shape, cond)
        memory = jax.eval_shape(lambda: self.inner.init(jnp.zeros(shape[-1:], jnp.int32)))
        if not isinstance(memory, Memory):
            raise Refused(f"PPLM changes the cache of a LanguageModel, got {type(self.inner).__name__}; wrap one")
        if self.ahead:
            x, log_p = jnp.zeros(shape[-1:], jnp.int32), jnp.zeros(self.inner.space.vocabulary)
            try:
                jax.eval_shape(lambda m: after(self.inner, x, log_p, levels.at(0), cond, m, jax.random.key(0)), memory)
            except (TypeError, IndexError):
                raise Refused("the network cannot read (V,) probabilities as a token; remove ahead") from None

    def __call__(self, x, level, cond, state, key):
        pred, new = self.inner(x, level, cond, state, key)
        w = strength(self.scale, level, cond, off=0.0)

        def steer(delta):
            moved = jax.tree.map(jnp.add, state.cache, delta)
            return self.inner(x, level, cond, state._replace(cache=moved), key)

        def objective(delta):
            other, memory = steer(delta)
            if self.ahead:
                memory = after(self.inner, x, other.log_p, level, cond, memory, key)
            value = scalar(self.attribute(other.log_p, memory.mean, cond), "the attribute of PPLM")
            return w * value - self.kl * kl_divergence(other.log_p, pred.log_p)

        def step(delta, _):
            g = jax.tree.map(lambda a: jax.vmap(self.bound, (0, None))(a, level), jax.grad(objective)(delta))
            return jax.tree.map(lambda d, a: d + self.rate * jnp.where(w == 0, 0, a), delta, g), None

        zero = jax.tree.map(jnp.zeros_like, state.cache)
        delta, _ = jax.lax.scan(step, zero, None, length=self.steps)
        fused = pred.contrast(steer(delta)[0], 1 - self.fusion, level)
        return dataclasses.replace(pred, log_p=fused.log_p), new

    def bound(self, g, level):
        """Return one layer's gradient (..., positions, heads, channels), 0 outside the window, over its norm^gamma."""
        position = jnp.arange(g.shape[-3])[:, None, None]
        inside = position < level.t
        if self.window is not None:
            inside = inside & (position >= level.t - self.window)
        g = jnp.where(inside, g, 0)
        return quotient(g, norm(g) ** self.gamma)
