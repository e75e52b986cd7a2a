"""Left to right as a process: level i knows the tokens up to position i, and a step writes the next one."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import Level
from guidance_jax.discrete.process import Process


def positions(length: int) -> Level:
    """The levels of a sequence of `length` tokens whose first is given: `length - 1` steps, t is the position.

    alpha is how many tokens follow the first so far, sigma how many are to come, so that windows apply here too.

    Raises:
      ValueError: fewer than three tokens.
    """
    if length < 3:
        raise ValueError(f"a sequence has a first token and at least two more, got length {length}")
    t = jnp.arange(float(length))
    return Level(t, t, length - 1 - t)


@dataclass(frozen=True)
class LeftToRight(Process):
    """The process of a language model: `log_p` (V,) is about the next token. `first` starts every sequence.

    Sequences are (L,) from the start, the rest filled with `first` until it is written.
    """

    first: int = 0

    def start(self, key, levels, shape):
        return jnp.full(shape, self.first, jnp.int32)

    def estimate(self, pred: Any) -> Any:
        return pred.x

    def transition(self, pred: Any, t: Any, s: Any) -> Any:
        """log p of the next token, (1, V)."""
        return jax.nn.log_softmax(pred.log_p + pred.tilt)[None]

    def place(self, x: Any, drawn: Any, s: Any) -> Any:
        return x.at[s.t.astype(int)].set(drawn[0].astype(x.dtype))

    def log_rates(self, x: Any, log_p: Any, level: Any) -> Any:
        raise ValueError("a language model has no rates; use Ancestral(), and CFG in the place of PredictorFree")
