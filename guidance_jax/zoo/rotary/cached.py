"""Decoding in blocks with a cache of keys and values: exact for block-causal models, an approximation for others.

In a block-causal model (BD3-LM, Arriola et al. 2025, arXiv 2503.09573) a token sees its own block and those before it,
so keys and values of finished blocks never change. In a model with full attention (LLaDA) all of them change at every
step. There the cache is recomputed at the start of each block and reused until the next block (the dual cache of
Fast-dLLM, Wu et al. 2025, 2505.22618).
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
    """Run a masked language model on the current block alone; the cache of keys and values is the threaded state.

    The current block is the first unfinished one, from position `begin` on. Masks after it cannot be revealed yet:
    their rates are 0. So sample with `PlannedUnmasking` or `FirstHitting`, on levels that give each block a whole
    number of steps. `PlannedUnmasking` reveals ceil(masks / steps left) per step. Tokens that are still masked at the
    end become `FAILED`.

    Attributes:
      params: the parameters of `network`.
      network: a `RotaryTransformer`.
      process: `Absorbing(V, mask)`.
      block: the number of tokens of a block; it must divide the length of the sequence.
      causal: whether the model was trained block by block. If True, decoding is exact. If False, the model has full
        attention, and the cache holds the tokens outside the current block as they were when it was last recomputed.
      begin: the length of the prompt in tokens, a multiple of `block`.
      refresh: recompute the cache also after this many steps within a block, if not `causal`. 1 is exact and slow.
        None recomputes it only at the start of each block.
      domain: as in `TokenNetwork`.

    Raises:
      Refused: a length or a prompt that is not a multiple of the block; a network that is told the noise level; a
        `refresh` below 1.
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
                f"blocks of {self.block} tokens do not divide {shape[-1]} tokens after {self.begin}; pad the prompt "
                "on the left, or choose another length"
            )
        if self.network.timed:
            raise Refused(
                "a cache needs a network without the noise level as an input, because the level changes at every step"
            )
        if self.refresh is not None and self.refresh < 1:
            raise Refused(f"the cache must be refreshed after 1 step or more, got refresh={self.refresh}")

    def init(self, x):
        """Return (cache, filled, age).

        If `causal`, `filled` is the number of blocks in the cache; else it is the block that the cache was computed
        for, -1 at first. `age` is the number of steps since the cache was computed.
        """
        return self.network.blank(len(x)), jnp.asarray(0 if self.causal else -1), jnp.asarray(0)

    def current(self, x: Any) -> Any:
        """Return the index of the current block."""
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

        if self.causal:  # under `vmap` the loop runs until the last sample is finished

            def finish(carry):
                filled, cache = carry
                return filled + 1, read(filled, cache)[1]

            filled, cache = jax.lax.while_loop(lambda carry: carry[0] < now, finish, (filled, cache))
        else:
            old = (filled != now) | (age >= (self.refresh or len(x)))

            def refill(carry):
                # without the barrier XLA hoists this computation out of the loop and runs it at every step
                tokens, cache = jax.lax.optimization_barrier((x, carry[1]))
                return jnp.asarray(False), self.network.read(self.params, tokens, 0, cache, padding)[1]

            # a loop of zero or one iterations, which remains a branch under `vmap`, unlike `cond`
            _, cache = jax.lax.while_loop(lambda carry: carry[0], refill, (old, cache))
            filled, age = now, jnp.where(old, 1, age + 1)
        logits, cache = read(now, cache)
        log_p = self.process.without_mask(log_softmax(logits))
        place = jnp.arange(len(x)) // self.block == now
        flat = jnp.full((len(x), log_p.shape[1]), -jnp.log(float(log_p.shape[1])), log_p.dtype)
        log_p = jax.lax.dynamic_update_slice(flat, log_p, (now * self.block, 0))
        tilt = jnp.where(place, 0.0, -jnp.inf)[:, None]
        return TokenPrediction(x, log_p, self.process, tilt), (cache, filled, age)
