"""Composition of conditions (Liu et al. 2022, arXiv 2206.01714, eq. 11 and 13): AND, NOT, one weight per condition.

    D = D_u + sum_k weight_k (D_k - D_u)

For tokens log p is combined in the same way and normalised per position. The rule of image editing and of multimodal
language models is D_0 + a (D_image - D_0) + b (D_both - D_image). For it, take the conditions (image, both) and the
weights (a - b, b).

A positive weight guides towards a condition, a negative one away from it. With one condition this is CFG.
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import Composable, Refused, converted, float_type, pytree
from guidance_jax.guidance.base import Guidance, check_conditions, complete_null, only_guided, stack_states
from guidance_jax.guidance.scales import strength


def vector(weights: Any) -> Any:
    """Return a list or tuple of numbers as an array. Return anything else, such as an array or a tracer, unchanged."""
    return jnp.asarray(weights) if isinstance(weights, list | tuple) else weights


@pytree
class Compose(Guidance):
    """Guide by K conditions at once, each with its own weight.

    `cond` holds the K conditions on its first axis, for example labels of shape (K,). Each step makes one network call
    with all K + 1 conditions. For images and vectors the guided prediction still satisfies alpha x0 + sigma eps = x. If
    the conditions are independent given x, weights 1 give the posterior given all of them. Weights 0 give the
    unconditional model. Channels that are not guided (`Domain.guided_channels`) are those of the first condition.

    Attributes:
      inner: a denoiser trained with conditioning dropout.
      null: the condition that means "unconditional".
      weights: (K,), one number per condition, an array or a list.
      window: a factor of all weights: a number, `Window(1.0, lo, hi)` or `Ramp(1.0)`.

    Raises:
      Refused: no condition, or another number of conditions than weights.
    """

    inner: Any
    null: Any
    weights: Any = converted(vector)
    window: Any = 1.0

    takes = Composable

    def init(self, x):
        return stack_states(self.inner.init(x), len(self.weights) + 1)

    def check(self, levels, shape, cond):
        if jnp.ndim(self.weights) != 1:
            raise Refused(f"Compose takes one weight per condition, (K,), got shape {jnp.shape(self.weights)}")
        check_conditions(self, levels, shape, cond)

    def __call__(self, x, level, cond, state, key):
        weights = jnp.asarray(self.weights * strength(self.window, level, cond, off=0.0), float_type(x))
        sizes = {jnp.shape(c)[:1] for c in jax.tree.leaves(cond)}
        if sizes != {weights.shape}:
            raise Refused(
                f"Compose has {weights.shape[0]} weights and conditions of leading sizes {sorted(sizes)}; "
                "give each sample one condition per weight, for example labels of shape (n, K)"
            )
        own = complete_null(self.null, jax.tree.map(lambda c: c[0], cond))
        null = jax.tree.map(lambda c, n: jnp.asarray(n, jnp.result_type(c))[None], cond, own)
        every = jax.tree.map(lambda n, c: jnp.concatenate([jnp.broadcast_to(n, (1, *c.shape[1:])), c]), null, cond)
        preds, state = jax.vmap(self.inner, in_axes=(None, None, 0, 0, None))(x, level, every, state, key)
        u = jax.tree.map(lambda p: p[0], preds)
        others, first = jax.tree.map(lambda p: p[1:], preds), jax.tree.map(lambda p: p[1], preds)
        return only_guided(self.inner, u.compose(others, weights, level), first), state
