"""Ancestral sampling of tokens (D3PM, MDLM, UDLM), and of the next token of a language model.

    x_s ~ q(x_s | x_t, x0 ~ p(x0 | x_t)), every position by itself

The one solver of all token models: what a step means is the process's affair.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from guidance_jax.core import Refused, Solver, Stochastic, add_logs, concrete, pytree
from guidance_jax.discrete.prediction import TokenPrediction
from guidance_jax.discrete.process import Process


class TokenSolver(Solver):
    """What solvers of tokens share: temperature, top-k and top-p of log p. Its subclasses have the fields."""

    temperature: Any
    top_k: Any
    top_p: Any

    takes = Process
    zero_is_greedy: ClassVar[bool] = False  # whether a temperature of 0 takes the most probable token

    def __post_init__(self):
        least = {"temperature": (self.temperature, 0), "top_p": (self.top_p, 0), "top_k": (self.top_k, 1)}
        for name, (value, bound) in least.items():
            if value is None or not concrete(value) or (name == "temperature" and self.zero_is_greedy and value == 0):
                continue
            if not (value > 0 and value >= bound):
                raise Refused(f"{name} must be positive, got {value}; leave it out for plain sampling")

    def truncate(self, pred: TokenPrediction) -> TokenPrediction:
        """The prediction with temperature, top-k and top-p applied to log p."""
        log_p = pred.log_p
        if self.temperature is not None:
            zero = self.zero_is_greedy & (jnp.asarray(self.temperature) == 0)  # elsewhere 0 spoils the sample
            log_p = jax.nn.log_softmax(log_p / jnp.where(zero, 1, self.temperature))
        if self.top_k is not None or self.top_p is not None:
            falling = -jnp.sort(-log_p, -1)
            rank = jnp.arange(log_p.shape[-1])
            kept = jnp.ones_like(rank, bool) if self.top_k is None else rank < self.top_k
            if self.top_p is not None:  # the first token always stays
                before = jnp.cumsum(jnp.exp(falling), -1) - jnp.exp(falling)
                kept = kept & ((before < self.top_p) | (rank == 0))
            least = jnp.min(jnp.where(kept, falling, jnp.inf), -1, keepdims=True)
            log_p = jax.nn.log_softmax(jnp.where(log_p < least, -jnp.inf, log_p))  # NaN stays
        return dataclasses.replace(pred, log_p=log_p)


def log_rates(pred: TokenPrediction, t: Any) -> Any:
    """log of the tilted rate of every jump, (L, V); what the model does not allow stays impossible."""
    return add_logs(pred.process.log_rates(pred.x, pred.log_p, t), pred.tilt)


@pytree
class Ancestral(TokenSolver, Stochastic):
    """Exact in the limit of small steps; for a language model exact. One network call a step.

    With guidance by `PredictorGuidance` this is D-CBG, with `TAG` its first-order form, with `CFG` D-CFG (Schiff et
    al.).

    Attributes:
      temperature: divides log p; below 1 sharpens. None leaves it alone.
      top_k: keeps the k most probable tokens. None keeps all.
      top_p: keeps the most probable tokens that together have probability `top_p` (nucleus sampling). None keeps all.

    Raises:
      Refused: a temperature or top_p that is not positive, a top_k below 1.
    """

    temperature: Any = None
    top_k: Any = None
    top_p: Any = None

    def transition(self, pred, t, s):
        return pred.process.transition(self.truncate(pred), t, s)
