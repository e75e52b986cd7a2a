"""Left to right as a process: at level i the tokens up to position i are known, and a step writes the next one."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import Distribution, Level, Refused, concrete, draw_token, pytree
from guidance_jax.discrete.prediction import TokenPrediction
from guidance_jax.discrete.process import Process


def positions(length: int) -> Level:
    """Return the levels of a sequence of `length` tokens whose first is given: `length - 1` steps, t is the position.

    alpha is the number of tokens written so far after the first, and sigma the number of tokens to come. So a `Window`
    in sigma / alpha applies here too.

    Args:
      length: the number of tokens, the first included; at least 3.

    Raises:
      Refused: fewer than three tokens.
    """
    if length < 3:
        raise Refused(f"a sequence needs a first token and at least two more, got length {length}")
    t = jnp.arange(float(length))
    return Level(t, t, length - 1 - t)


@pytree
class NextToken(Distribution):
    """The distribution of a sequence after the token at one position is written.

    Attributes:
      log_q: (V,), the normalised log-probabilities of the token.
      x: (L,), the sequence so far.
      position: the position of the token.
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
    """The space of a language model, whose prediction `log_p` (V,) is that of the next token.

    Sequences have shape (L,) from the start. Positions that are not written yet hold `first`.

    Attributes:
      vocabulary: the number of tokens V.
      first: the token that starts every sequence, 0 by default.
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
                f"a sequence of {length} tokens needs one level per position, got {len(levels.t)} levels; write "
                f"positions({length})"
            )

    def flat(self, x, level):
        return TokenPrediction(x, jnp.full(self.vocabulary, -jnp.log(float(self.vocabulary))), self)

    def estimate(self, pred):
        return pred.x

    def transition(self, pred, t, s):
        """Return p(next token | prefix)."""
        return NextToken(jax.nn.log_softmax(pred.log_weights), pred.x, s.t.astype(int))
