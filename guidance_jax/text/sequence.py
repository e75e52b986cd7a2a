"""Left to right as a process: level i knows the tokens up to position i, and a step writes the next one."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import Distribution, Level, Refused, concrete, draw_token, pytree
from guidance_jax.discrete.prediction import TokenPrediction
from guidance_jax.discrete.process import Process


def positions(length: int) -> Level:
    """The levels of a sequence of `length` tokens whose first is given: `length - 1` steps, t is the position.

    alpha is how many tokens follow the first so far, sigma how many are to come, so that windows apply here too.

    Args:
      length: tokens, the first included.

    Raises:
      Refused: fewer than three tokens.
    """
    if length < 3:
        raise Refused(f"a sequence has a first token and at least two more, got length {length}")
    t = jnp.arange(float(length))
    return Level(t, t, length - 1 - t)


@pytree
class NextToken(Distribution):
    """One token, written at a position.

    Attributes:
      log_q: (V,), normalised.
      x: (L,), the sequence so far.
      position: where it goes.
    """

    log_q: Any
    x: Any
    position: Any

    def draw(self, key):
        token = draw_token(key, self.log_q[None])[0]
        return self.x.at[self.position].set(token.astype(self.x.dtype))

    def log_prob(self, x):
        return self.log_q[x[self.position]]


@dataclass(frozen=True)
class LeftToRight(Process):
    """The space of a language model: `log_p` (V,) is about the next token.

    Sequences are (L,) from the start, the rest filled with `first` until it is written.

    Attributes:
      vocabulary: how many tokens there are.
      first: the token that starts every sequence.
    """

    first: int = 0

    kind: ClassVar[str] = "text"

    def start(self, key, levels, shape):
        return jnp.full(shape, self.first, jnp.int32)

    def check(self, levels, shape):
        length = shape[-1]
        if len(levels.t) != length or (
            concrete(levels.t) and not np.array_equal(np.asarray(levels.t), np.arange(length, dtype=float))
        ):
            raise Refused(
                f"a sequence of {length} tokens takes as many levels, its positions, got {len(levels.t)} levels; "
                f"write positions({length})"
            )

    def flat(self, x, level):
        return TokenPrediction(x, jnp.full(self.vocabulary, -jnp.log(float(self.vocabulary))), self)

    def estimate(self, pred):
        return pred.x

    def transition(self, pred, t, s):
        """p(next token | prefix)."""
        return NextToken(jax.nn.log_softmax(pred.log_weights), pred.x, s.t.astype(int))
