"""Make a denoiser of the next token from a causal network with a cache."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from guidance_jax.core import Denoiser, Level, Refused, log_softmax, pytree, static
from guidance_jax.discrete.prediction import TokenPrediction
from guidance_jax.models.domain import Domain, network_condition, unless_unknown
from guidance_jax.models.network import Parametrized
from guidance_jax.text.sequence import LeftToRight


class Memory(NamedTuple):
    """The state of a language model after the tokens so far."""

    cache: Any  # keys and values
    hidden: Any  # (width,) sum of the last layer's hidden states
    count: Any  # the number of tokens in that sum

    @property
    def mean(self) -> Any:
        """Return the mean hidden state of the prefix, which attribute models take as input."""
        return self.hidden / jnp.maximum(self.count, 1)


def after(model: Denoiser, x: Any, log_p: Any, level: Level, cond: Any, memory: Memory, key: Any) -> Memory:
    """Return the memory after `model` has read the expected next token too; unchanged at the end of the sequence x."""
    t = level.t + 1
    expected = jnp.broadcast_to(jnp.exp(log_p), (len(x), len(log_p)))
    _, read = model(expected, level._replace(t=t), cond, memory, key)
    return jax.tree.map(lambda new, old: jnp.where(t < len(x), new, old), read, memory)


@pytree
class LanguageModel(Parametrized, Denoiser):
    """Predict p(next token | prefix) by a pure function of one token of one sequence. One network call per step.

    The cost of a step does not depend on the position. Sample with `Reverse(model, Ancestral(...))` on
    `positions(length)`, and fix a prompt with `Infill`.

    Attributes:
      params: a pytree of arrays.
      apply: apply(params, token, position, cache, cond) -> (logits (V,), hidden (width,), cache). `PPLM` with `ahead`
        needs a network that also takes (V,) probabilities in place of a token, and reads the expected embedding.
      blank: blank(length) -> (cache, hidden), zeros of the right shapes.
      process: `LeftToRight(V)`.
      context: the length of the longest sequence; None for no limit.
      domain: the classes and the null label, with which conditions are checked; its shape is ignored. None checks
        nothing.
      end: the token that ends a text: after it, only that token follows. None for texts without an end.

    Raises:
      Refused: a sequence longer than the context; levels other than `positions(length)`; labels that the model does not
        know.
    """

    params: Any
    apply: Callable = static()
    blank: Callable = static()
    process: LeftToRight = static()
    context: int | None = static(default=None)
    domain: Domain | None = static(default=None)
    end: int | None = static(default=None)

    @property
    def space(self):
        return self.process

    def init(self, x):
        cache, hidden = self.blank(len(x))
        return Memory(cache, hidden, jnp.zeros((), hidden.dtype))

    def check(self, levels, shape, cond):
        if self.context is not None and shape[-1] > self.context:
            raise Refused(
                f"the model's context and cache hold {self.context} tokens, got sequences of {shape[-1]}; sample "
                "shorter ones"
            )
        self.space.check(levels, shape)
        if self.domain is not None:
            self.domain.check_label(cond)

    def __call__(self, x, level, cond, state, key):
        position, cond = jnp.asarray(level.t).astype(int), network_condition(self.domain, cond)
        logits, hidden, cache = self.apply(self.params, x[position], position, state.cache, cond)
        memory = Memory(cache, state.hidden + hidden, state.count + 1)
        log_p = log_softmax(unless_unknown(self.domain, cond, logits))
        if self.end is not None and x.ndim == 1:  # expected tokens, of shape (L, V), have no end
            place = jnp.arange(len(x))
            # the first token starts the text, even if it is the token that also ends it
            ended = jnp.any((x == self.end) & (place > 0) & (place <= position))
            log_p = jnp.where(ended, jnp.where(jnp.arange(len(log_p)) == self.end, 0.0, -jnp.inf), log_p)
        return TokenPrediction(x, log_p, self.process), memory
