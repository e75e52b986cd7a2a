"""A Markov chain as an exact language model, with exact p(attribute | prefix) by backward recursion."""

import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np

from guidance_jax.core import Denoiser, log, pytree, static
from guidance_jax.discrete.prediction import TokenPrediction
from guidance_jax.text.prefix import PrefixGuide
from guidance_jax.text.sequence import LeftToRight


@pytree
class Future(PrefixGuide):
    """The exact log p(attribute | prefix) of a `MarkovModel`, for `FUDGE`, and as a twist for particles.

    The label is 1 for sequences with the attribute, 0 for those without.

    Attributes:
      chances: p(attribute | position, last token, times so far), (length, V, least + 1).
      counted: the token that is counted.
      least: the number of times that it must occur.
    """

    chances: Any
    counted: int = static()
    least: int = static()

    def init(self, x):
        return jnp.zeros((), jnp.int32)

    def read(self, token, position, state, cond):
        times = jnp.minimum(state + (token == self.counted), self.least)
        return self._log_p(position, token, times, cond), times

    def log_prob(self, x, level, cond):
        """Return log p(cond | the prefix of x up to position `level.t`)."""
        position = jnp.asarray(level.t).astype(int)
        before = jnp.arange(len(x)) <= position
        times = jnp.minimum(jnp.sum(before & (x == self.counted)), self.least)
        return self._log_p(position, x[position], times, cond)

    def _log_p(self, position, token, times, label):
        p = self.chances[jnp.asarray(position).astype(int), token, times]
        return log(jnp.where(label == 1, p, jnp.where(label == 0, 1 - p, jnp.nan)))


@pytree
class MarkovModel(Denoiser):
    """A Markov chain as a language model of `length` tokens: x_0 is token 0, x_{i+1} ~ transition[x_i].

    A sequence has the attribute if the token `counted` occurs at least `least` times.

    Attributes:
      transition: the transition probabilities, (V, V); rows sum to one.
      length: the number of tokens of a sequence.
      counted: the token that is counted.
      least: the number of times that it must occur.

    Raises:
      Refused: levels other than `positions(length)`.
    """

    transition: Any
    length: int = static()
    counted: int = static(default=1)
    least: int = static(default=2)

    @property
    def space(self) -> LeftToRight:
        return LeftToRight(len(self.transition))

    @property
    def future(self) -> Future:
        """The exact p(attribute | prefix)."""
        return Future(self.chances(), self.counted, self.least)

    def __call__(self, x, level, cond, state, key):
        last = x[jnp.asarray(level.t).astype(int)]
        return TokenPrediction(x, log(self.transition[last]), self.space), state

    def chances(self) -> Any:
        """Return p(attribute | position, last token, times seen so far up to `least`), (length, V, least + 1)."""
        end = jnp.broadcast_to(jnp.arange(self.least + 1) == self.least, (len(self.transition), self.least + 1))
        rows = [end.astype(float)]
        token = jnp.arange(len(self.transition))
        for _ in range(self.length - 1):
            times = jnp.minimum(jnp.arange(self.least + 1)[None] + (token == self.counted)[:, None], self.least)
            ahead = rows[0][token[:, None], times]  # after the next token, (V next, seen before it)
            rows.insert(0, jnp.matmul(self.transition, ahead, precision="highest"))
        return jnp.stack(rows)

    def sequences(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (all sequences (n, length), their probabilities, whether each has the attribute), if n is small."""
        size, p = len(self.transition), np.asarray(self.transition, np.float64)
        rows = np.asarray([(0, *rest) for rest in itertools.product(range(size), repeat=self.length - 1)], np.int32)
        weights = np.prod(p[rows[:, :-1], rows[:, 1:]], 1)
        return rows, weights / weights.sum(), (rows == self.counted).sum(1) >= self.least
