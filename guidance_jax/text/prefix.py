"""Guides of prefixes: log p(attribute | x_1..x_i), computed by reading one token at a time."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from guidance_jax.core import Guide, Refused, log_softmax, pytree, read_entry, static
from guidance_jax.models.domain import Domain
from guidance_jax.models.network import Parametrized
from guidance_jax.text.sequence import LeftToRight


class PrefixGuide(Guide):
    """A guide that reads a prefix once, token by token. `FUDGE` calls `read`, particle methods call `log_prob`."""

    takes = LeftToRight

    def init(self, x: Any) -> Any:
        """Return the state before the first token of a sequence x (L,)."""
        raise NotImplementedError

    def read(self, token: Any, position: Any, state: Any, cond: Any) -> tuple[Any, Any]:
        """Return (log p(cond | the prefix that ends with `token` at `position`) in nats, new state)."""
        raise NotImplementedError


@pytree
class PrefixClassifier(Parametrized, PrefixGuide):
    """Predict log p(label | prefix) by a pure function of one token. One network call per token.

    Attributes:
      params: a pytree of arrays.
      apply: apply(params, token, position, state) -> (logits (num_classes,), state).
      blank: blank(length) -> the state before the first token.
      num_classes: how many labels there are.
      whole: whole(params, x (L,)) -> (L, num_classes), the logits of all prefixes at once. It is needed for a twist of
        particles and for a classifier of whole sequences. None if the guide only reads token by token.

    Raises:
      Refused: a label out of range; `log_prob` without `whole`.
    """

    params: Any
    apply: Callable = static()
    blank: Callable = static()
    num_classes: int = static(default=2)
    whole: Callable | None = static(default=None)

    def __repr__(self):
        return f"PrefixClassifier({self.num_classes} classes)"

    def init(self, x):
        return self.blank(len(x))

    def check(self, levels, shape, cond):
        Domain(tuple(shape), num_classes=self.num_classes).check_label(cond)

    def read(self, token, position, state, cond):
        logits, state = self.apply(self.params, token, position, state)
        return read_entry(log_softmax(logits), cond), state

    def log_prob(self, x, level, cond):
        """Return log p(cond | the tokens of x up to position `level.t`), in nats."""
        if self.whole is None:
            raise Refused("this PrefixClassifier reads one token at a time; give it `whole` to read sequences")
        return read_entry(log_softmax(self.whole(self.params, x)[jnp.asarray(level.t).astype(int)]), cond)
