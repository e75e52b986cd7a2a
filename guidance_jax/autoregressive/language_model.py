"""From a causal network with a cache to a denoiser of the next token."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.autoregressive.sequence import LeftToRight
from guidance_jax.core import pytree, static
from guidance_jax.discrete.prediction import TokenPrediction
from guidance_jax.domain import Domain, told
from guidance_jax.network import log_softmax


class Memory(NamedTuple):
    """What a language model remembers of the tokens so far."""

    cache: Any  # keys and values
    hidden: Any  # (width,) sum of the last layer's states
    count: Any  # of tokens in it

    @property
    def mean(self) -> Any:
        """The mean hidden state of the prefix: what attribute models look at."""
        return self.hidden / jnp.maximum(self.count, 1)


@pytree
class LanguageModel:
    """p(next token | prefix) from a pure function for one token of one sequence:

        apply(params, token, position, cache, cond) -> (logits (V,), hidden (width,), cache)

    `blank(length) -> (cache, hidden)` are zeros of the right shapes. One call a step; its cost does not depend on the
    position. Sample it with `Reverse(model, Ancestral(...))` on `positions(length)`; prompts by `Infill`.

    Attributes:
      context: the longest sequence; None for no limit.
      domain: classes, null label; its shape is not looked at.

    Raises:
      ValueError: a sequence longer than the context; labels that the model does not have.
    """

    params: Any
    apply: Callable = static()
    blank: Callable = static()
    process: LeftToRight = static()
    context: int | None = static(default=None)
    domain: Domain | None = static(default=None)

    def __repr__(self):
        size = sum(np.size(a) for a in jax.tree.leaves(self.params))
        return f"LanguageModel({size:,} parameters, {self.process}, context {self.context})"

    def init(self, x):
        cache, hidden = self.blank(len(x))
        return Memory(cache, hidden, jnp.zeros((), hidden.dtype))

    def start(self, key, levels, shape):
        return self.process.start(key, levels, shape)

    def check(self, levels, shape, cond):
        if self.context is not None and shape[-1] > self.context:
            raise ValueError(
                f"the model's context and cache hold {self.context} tokens, got sequences of {shape[-1]}; ask for fewer"
            )
        if len(levels.t) != shape[-1]:
            raise ValueError(
                f"a sequence of {shape[-1]} tokens takes as many levels, got {len(levels.t)}; write "
                f"positions({shape[-1]})"
            )
        if self.domain is not None:
            self.domain.check_label(cond)

    def __call__(self, x, level, cond, state, key):
        position = jnp.asarray(level.t).astype(int)
        logits, hidden, cache = self.apply(self.params, x[position], position, state.cache, told(self.domain, cond))
        memory = Memory(cache, state.hidden + hidden, state.count + 1)
        return TokenPrediction(x, log_softmax(logits), self.process), memory
