"""Reward gradients through soft tokens: EntRGi (2026, arXiv 2602.05000) and APS (2025, arXiv 2510.02291).

    e_l = soft_l + w_l (hard_l - soft_l),   soft_l = sum_v softmax(phi)_v E_v,   hard_l = E[v], v ~ softmax(phi)

`steps` Adam steps on the logits phi of the masks raise the reward of e. They start at the model's log p. The gradient
passes through soft_l only. w_l is the entropy divided by log V (EntRGi), 1 (APS, straight-through) or 0 (the expected
embedding).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax._typing import Array, Float
from guidance_jax.core import Refused, as_guide, converted, draw_token, pytree, static
from guidance_jax.discrete import orders
from guidance_jax.discrete.process import Absorbing
from guidance_jax.guidance.base import Guidance
from guidance_jax.guidance.scales import strength


def by_entropy(log_p: Any) -> Float[Array, " L"]:
    """Return the entropy divided by log V, from 0 to 1: EntRGi. `log_p` is (L, V), normalised."""
    return -orders.entropy(log_p, None, None) / jnp.log(float(log_p.shape[-1]))


def straight_through(log_p: Any) -> Float[Array, " L"]:
    """Return 1: the reward sees drawn tokens, as in APS. `log_p` is (L, V)."""
    return jnp.ones(len(log_p))


def expectation(log_p: Any) -> Float[Array, " L"]:
    """Return 0: the reward sees expected embeddings. `log_p` is (L, V)."""
    return jnp.zeros(len(log_p))


@pytree
class EntRGi(Guidance):
    """Raise a reward of token embeddings by gradient steps on the logits of the masks. No further network call.

    `steps` calls and gradients of the reward per sampling step. Scale 0 is the unguided model.

    Attributes:
      inner: a denoiser of masked tokens.
      reward: a `Guide` of embeddings (L, d), or f(embeddings, level, cond) -> a number. The row of a decided token is
        E[x_l].
      table: (V, d), the embeddings E that the reward reads.
      scale: the weight of the reward: a number, `Window`, or a function of the level.
      rate: the learning rate of Adam; published values are 0.5 to 1.
      steps: the number of Adam steps; the published value is 3. 0 is the unguided model.
      mix: the function that computes w from log p: `by_entropy`, `straight_through` or `expectation` of
        `discrete.entrgi`.

    Raises:
      Refused: a model of another space; a table with fewer rows than the vocabulary.
    """

    inner: Any
    reward: Any = converted(as_guide)
    table: Any
    scale: Any = 1.0
    rate: Any = 0.5
    steps: int = static(default=3)
    mix: Callable = static(default=by_entropy)

    takes = Absorbing

    def check(self, levels, shape, cond):
        super().check(levels, shape, cond)
        if jnp.ndim(self.table) != 2 or len(self.table) < self.space.vocabulary:
            raise Refused(
                f"the table of embeddings must have shape (V, d) for the {self.space.vocabulary} tokens of the model, "
                f"got shape {jnp.shape(self.table)}; map the tokens of the reward to those of the model first"
            )

    def __call__(self, x, level, cond, state, key):
        pred, state = self.inner(x, level, cond, state, key)
        free, table = self.space.free(x), jnp.asarray(self.table)
        w = strength(self.scale, level, cond, off=0.0)
        known = table[jnp.clip(x, 0, len(table) - 1)]
        allowed = pred.log_p != -jnp.inf

        def objective(phi, key):
            log_p = jax.nn.log_softmax(jnp.where(allowed, phi, -jnp.inf))
            soft = jnp.matmul(jnp.exp(log_p), table[: log_p.shape[1]], precision="highest")
            hard = table[jnp.maximum(draw_token(key, log_p), 0)]
            mix = jax.lax.stop_gradient(self.mix(log_p))[:, None]
            e = soft + jax.lax.stop_gradient(mix * (hard - soft))
            return w * self.reward.value(jnp.where(free[:, None], e, known), level, cond)

        def ascend(carry, inputs):
            phi, mean, square = carry
            step_key, i = inputs
            g = jnp.where(free[:, None] & allowed, jax.grad(objective)(phi, step_key), 0)
            mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g**2
            size = jnp.sqrt(square / (1 - 0.999**i)) + 1e-8
            return (phi + self.rate * mean / (1 - 0.9**i) / size, mean, square), None

        start = jnp.where(allowed, pred.log_p, 0)
        inputs = jax.random.split(jax.random.fold_in(key, 1), self.steps), 1.0 + jnp.arange(self.steps)
        (phi, _, _), _ = jax.lax.scan(ascend, (start, jnp.zeros_like(start), jnp.zeros_like(start)), inputs)
        guided = jax.nn.log_softmax(jnp.where(allowed, phi, -jnp.inf))
        return dataclasses.replace(pred, log_p=jnp.where(free[:, None] & (w != 0), guided, pred.log_p)), state
