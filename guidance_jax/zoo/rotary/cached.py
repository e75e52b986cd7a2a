"""Decoding in blocks with a cache of keys and values: exact for block-causal models, an approximation for others.

A block-causal model (BD3-LM, Arriola et al. 2025, arXiv 2503.09573) sees its own block and those before it, so keys and
values of finished blocks never change. A model that sees everything (LLaDA) has no such structure: the cache is filled
anew at the start of every block and keeps what then was (the dual cache of Fast-dLLM, Wu et al. 2025, 2505.22618).
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import Refused, log_softmax, pytree, static
from guidance_jax.discrete.network import TokenModel
from guidance_jax.discrete.prediction import TokenPrediction
from guidance_jax.discrete.process import Process
from guidance_jax.models.domain import Domain
from guidance_jax.zoo.rotary.network import RotaryTransformer, padding_of


@pytree
class CachedNetwork(TokenModel):
    """A masked language model that computes the current block alone; the cache is the threaded state.

    The current block is the first that is not finished, from `begin` on. Masks behind it cannot be decided yet: their
    rates are 0. So take `PlannedUnmasking` or `FirstHitting`, on levels that give a block a whole number of steps:
    `PlannedUnmasking` reveals ceil(masks / steps left) per step, and what is still masked at the end is `FAILED`.

    Attributes:
      params: of the network.
      network: a `RotaryTransformer`.
      process: `Absorbing(V, mask)`.
      block: tokens of a block; it divides the length of the sequence.
      causal: whether the model was trained block by block. True: exact. False: the model sees everything, and tokens
        outside the current block are as they were when its first token was decided.
      begin: how many tokens are a prompt; a multiple of `block`.
      refresh: of a model that is not causal: the cache is filled anew after so many steps too. 1 is exact and slow.
      domain: as in `TokenNetwork`.

    Raises:
      Refused: a length or a prompt that is no multiple of the block; a network that is told the noise level.
    """

    functions = ()

    params: Any
    network: RotaryTransformer = static()
    process: Process = static()
    block: int = static()
    causal: bool = static()
    begin: int = static(default=0)
    refresh: int | None = static(default=None)
    domain: Domain | None = static(default=None)

    def check(self, levels, shape, cond):
        super().check(levels, shape, cond)
        if self.block < 1 or shape[-1] % self.block or self.begin % self.block:
            raise Refused(
                f"blocks of {self.block} tokens do not divide {shape[-1]} tokens after {self.begin}; pad the prompt on "
                "the left, or take another length"
            )
        if self.network.timed:
            raise Refused("a cache is for networks that are not told the noise level, which changes at every step")
        if self.refresh is not None and self.refresh < 1:
            raise Refused(f"the cache is filled anew after 1 step or more, got refresh={self.refresh}")

    def init(self, x):
        """(cache, how many blocks are in it or which it was filled for, steps since then)."""
        return self.network.blank(len(x)), jnp.asarray(0 if self.causal else -1), jnp.asarray(0)

    def current(self, x: Any) -> Any:
        """The number of the block that is being written."""
        free = self.process.free(x).reshape(-1, self.block)
        last = jnp.max(jnp.where(~jnp.all(free, 1), jnp.arange(len(free)), -1))
        following = jnp.where(jnp.any(free[last]) & (last >= 0), last, last + 1)
        return jnp.clip(jnp.maximum(following, self.begin // self.block), 0, len(free) - 1)

    def __call__(self, x, level, cond, state, key):
        (cache, filled, age), padding, now = state, padding_of(cond), self.current(x)

        def read(number, cache):
            own = jax.lax.dynamic_slice(x, (number * self.block,), (self.block,))
            rule = self.block if self.causal else None
            return self.network.read(self.params, own, number * self.block, cache, padding, rule)

        if self.causal:  # under `vmap` the loop runs as often as the slowest sample needs

            def finish(carry):
                filled, cache = carry
                return filled + 1, read(filled, cache)[1]

            filled, cache = jax.lax.while_loop(lambda carry: carry[0] < now, finish, (filled, cache))
        else:
            old = (filled != now) | (age >= (self.refresh or len(x)))

            def refill(carry):
                # nothing in it depends on the turn, so that XLA would compute it before the loop, at every step
                tokens, cache = jax.lax.optimization_barrier((x, carry[1]))
                return jnp.asarray(False), self.network.read(self.params, tokens, 0, cache, padding)[1]

            # a loop of no or one turn, which stays a branch under `vmap`
            _, cache = jax.lax.while_loop(lambda carry: carry[0], refill, (old, cache))
            filled, age = now, jnp.where(old, 1, age + 1)
        logits, cache = read(now, cache)
        log_p = self.process.without_mask(log_softmax(logits))
        place = jnp.arange(len(x)) // self.block == now
        flat = jnp.full((len(x), log_p.shape[1]), -jnp.log(float(log_p.shape[1])), log_p.dtype)
        log_p = jax.lax.dynamic_update_slice(flat, log_p, (now * self.block, 0))
        tilt = jnp.where(place, 0.0, -jnp.inf)[:, None]
        return TokenPrediction(x, log_p, self.process, tilt), (cache, filled, age)
