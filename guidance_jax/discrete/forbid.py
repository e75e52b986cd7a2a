"""Ban tokens that must not be drawn, such as unknown words, padding or impossible atoms."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import Refused, concrete, pytree
from guidance_jax.discrete.process import Process
from guidance_jax.guidance.base import Guidance


@pytree
class Forbid(Guidance):
    """Set the probability of banned tokens to 0. With no banned token this is `inner`. No network call of its own.

    Attributes:
      inner: any denoiser of tokens or text.
      banned: (V,) booleans, True for banned tokens, or (L, V) for a ban per position.

    Raises:
      Refused: a model of images or vectors; `banned` of another size than the vocabulary; a position whose tokens
        are all banned.
    """

    inner: Any
    banned: Any

    takes = Process

    def check(self, levels, shape, cond):
        super().check(levels, shape, cond)
        size = self.space.vocabulary
        if jnp.shape(self.banned)[-1:] != (size,):
            raise Refused(
                f"banned of Forbid has one True or False per token of the vocabulary, ({size},) or (L, {size}), got "
                f"shape {jnp.shape(self.banned)}; write jnp.zeros({size}, bool).at[tokens].set(True)"
            )
        if concrete(self.banned) and np.asarray(self.banned, bool).all(-1).any():
            raise Refused("Forbid bans every token of a position, so that none can be drawn; allow at least one")

    def __call__(self, x, level, cond, state, key):
        pred, state = self.inner(x, level, cond, state, key)
        log_p = jax.nn.log_softmax(jnp.where(jnp.asarray(self.banned, bool), -jnp.inf, pred.log_p))
        return dataclasses.replace(pred, log_p=log_p), state
