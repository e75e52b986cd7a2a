"""A Markov chain as an exact language model, with exact p(attribute | prefix) by backward recursion."""

import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np

from guidance_jax.autoregressive.sequence import LeftToRight
from guidance_jax.core import pytree, static
from guidance_jax.discrete.prediction import TokenPrediction
from guidance_jax.discrete.process import log


@pytree
class Future:
    """log p(attribute | prefix) of a `MarkovModel`, for `FUDGE`; attribute: the counted token occurs at least `least`
    times.

    The label is 1 for sequences that have the attribute, 0 for those that have not.
    """

    chances: Any  # (length, V, least + 1)
    counted: int = static()
    least: int = static()

    def init(self, x):
        return jnp.zeros((), jnp.int32)

    def __call__(self, token, position, state, label):
        seen = jnp.minimum(state + (token == self.counted), self.least)
        p = self.chances[jnp.asarray(position).astype(int), token, seen]
        return log(jnp.where(label == 1, p, 1 - p)), seen


@pytree
class MarkovModel:
    """x_0 is token 0, x_{i+1} ~ transition[x_i]: a language model of sequences of `length` tokens.

    Attributes:
      transition: (V, V), rows sum to one.
      counted, least: the attribute is that token `counted` occurs at least `least` times in the sequence.
    """

    transition: Any
    length: int = static()
    counted: int = static(default=1)
    least: int = static(default=2)

    @property
    def process(self) -> LeftToRight:
        return LeftToRight(len(self.transition))

    @property
    def future(self) -> Future:
        """The exact p(attribute | prefix)."""
        return Future(self.chances(), self.counted, self.least)

    def init(self, x):
        return ()

    def start(self, key, levels, shape):
        return self.process.start(key, levels, shape)

    def __call__(self, x, level, cond, state, key):
        last = x[jnp.asarray(level.t).astype(int)]
        return TokenPrediction(x, log(self.transition[last]), self.process), state

    def chances(self) -> Any:
        """p(attribute | position, last token, times seen so far up to `least`), (length, V, least + 1)."""
        end = jnp.broadcast_to(jnp.arange(self.least + 1) == self.least, (len(self.transition), self.least + 1))
        rows = [end.astype(float)]
        token = jnp.arange(len(self.transition))
        for _ in range(self.length - 1):
            seen = jnp.minimum(jnp.arange(self.least + 1)[None] + (token == self.counted)[:, None], self.least)
            ahead = rows[0][token[:, None], seen]  # after the next token, (V next, seen before it)
            rows.insert(0, jnp.matmul(self.transition, ahead, precision="highest"))
        return jnp.stack(rows)

    def log_future(self, x: Any, level: Any, label: Any) -> Any:
        """log p(label | the prefix of x up to position `level.t`), for twisted particles."""
        position = jnp.asarray(level.t).astype(int)
        before = jnp.arange(len(x)) <= position
        seen = jnp.minimum(jnp.sum(before & (x == self.counted)), self.least)
        p = self.chances()[position, x[position], seen]
        return log(jnp.where(label == 1, p, 1 - p))

    def sequences(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(all sequences (n, length), their probabilities, whether each has the attribute); for small ones."""
        size, p = len(self.transition), np.asarray(self.transition, np.float64)
        rows = np.asarray([(0, *rest) for rest in itertools.product(range(size), repeat=self.length - 1)], np.int32)
        weights = np.prod(p[rows[:, :-1], rows[:, 1:]], 1)
        return rows, weights / weights.sum(), (rows == self.counted).sum(1) >= self.least
