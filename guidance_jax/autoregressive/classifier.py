"""Classifiers of prefixes, p(attribute | x_1..x_i), that read one token at a time."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from guidance_jax.core import pytree, static
from guidance_jax.domain import Domain
from guidance_jax.network import log_softmax


@pytree
class PrefixClassifier:
    """log p(label | prefix) from a pure function for one token: apply(params, token, position, state) -> (logits,
    state).

    `blank(length)` is the state before the first token. What `FUDGE` asks; with `whole(params, x (L,)) -> (L,
    classes)`, the logits of all prefixes at once, it is a twist for `TwistedTokens` and a classifier of whole sequences
    too.

    Raises:
      ValueError: a label out of range.
    """

    params: Any
    apply: Callable = static()
    blank: Callable = static()
    num_classes: int = static(default=2)
    whole: Callable | None = static(default=None)

    def init(self, x):
        return self.blank(len(x))

    def check(self, levels, shape, cond):
        Domain(tuple(shape), num_classes=self.num_classes).check_label(cond)

    def __call__(self, token, position, state, label):
        logits, state = self.apply(self.params, token, position, state)
        return log_softmax(logits)[jnp.asarray(label)], state

    def log_prob(self, x: Any, level: Any, label: Any) -> Any:
        """log p(label | the tokens of x up to position `level.t`)."""
        if self.whole is None:
            raise ValueError("this PrefixClassifier reads one token at a time; give it `whole` to read sequences")
        return log_softmax(self.whole(self.params, x)[jnp.asarray(level.t).astype(int)])[jnp.asarray(label)]
