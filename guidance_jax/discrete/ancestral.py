"""Ancestral sampling of tokens (D3PM, MDLM, UDLM), and of the next token of a language model.

    x_s ~ q(x_s | x_t, x0 ~ p(x0 | x_t)), independently at each position

`Ancestral` samples every token model, because the process (`pred.process`) defines the distribution of a step.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from guidance_jax.core import Refused, Solver, Stochastic, add_logs, concrete, pytree
from guidance_jax.discrete.prediction import TokenPrediction
from guidance_jax.discrete.process import Process


class TokenSolver(Solver):
    """Apply temperature, top-k and top-p to log p, for all solvers of tokens. Subclasses define the fields."""

    temperature: Any
    top_k: Any
    top_p: Any

    takes = Process
    zero_is_greedy: ClassVar[bool] = False  # whether a temperature of 0 takes the most probable token

    def __post_init__(self):
        least = {"temperature": (self.temperature, 0), "top_p": (self.top_p, 0), "top_k": (self.top_k, 1)}
        for name, (value, bound) in least.items():
            if value is None or callable(value) or not concrete(value):
                continue
            if name == "temperature" and self.zero_is_greedy and value == 0:
                continue
            if not (value > 0 and value >= bound):
                raise Refused(f"{name} must be positive, got {value}; remove it for plain sampling")

    def truncate(self, pred: TokenPrediction) -> TokenPrediction:
        """Return the prediction with temperature, top-k and top-p applied to log p."""
        log_p = pred.log_p
        if self.temperature is not None:
            zero = self.zero_is_greedy & (jnp.asarray(self.temperature) == 0)  # else 0 gives NaN, a failed sample
            log_p = jax.nn.log_softmax(log_p / jnp.where(zero, 1, self.temperature))
        if self.top_k is not None or self.top_p is not None:
            falling = -jnp.sort(-log_p, -1)
            rank = jnp.arange(log_p.shape[-1])
            kept = jnp.ones_like(rank, bool) if self.top_k is None else rank < self.top_k
            if self.top_p is not None:  # the most probable token always stays
                before = jnp.cumsum(jnp.exp(falling), -1) - jnp.exp(falling)
                kept = kept & ((before < self.top_p) | (rank == 0))
            least = jnp.min(jnp.where(kept, falling, jnp.inf), -1, keepdims=True)
            log_p = jax.nn.log_softmax(jnp.where(log_p < least, -jnp.inf, log_p))  # NaN stays
        return dataclasses.replace(pred, log_p=log_p)


def log_rates(pred: TokenPrediction, t: Any) -> Any:
    """Return the log of the tilted rate of every jump, (L, V); jumps that the model excludes stay impossible."""
    return add_logs(pred.process.log_rates(pred.x, pred.log_p, t), pred.tilt)


@pytree
class Ancestral(TokenSolver, Stochastic):
    """Draw each step from the transition that the prediction implies. One network call per step.

    The samples are exact in the limit of small steps. For a language model, whose step writes one token, they are
    exact. With guidance by `PredictorGuidance` this is D-CBG, with `TAG` its first-order form, with `CFG` D-CFG (Schiff
    et al.).

    Attributes:
      temperature: log p is divided by it, so that values below 1 sharpen the distribution. None leaves log p unchanged.
      top_k: keep only this number of most probable tokens, at least 1. None keeps all.
      top_p: keep the fewest most probable tokens whose total probability is at least `top_p` (nucleus sampling). None
        keeps all.

    Raises:
      Refused: a temperature or `top_p` that is not positive; a `top_k` below 1.
    """

    temperature: Any = None
    top_k: Any = None
    top_p: Any = None

    def transition(self, pred, t, s):
        return pred.process.transition(self.truncate(pred), t, s)
