"""Twisted sequential Monte Carlo over tokens (Wu et al. 2023, arXiv 2306.17775; Zhao et al. 2024, 2404.17546, for
text).

    weight   p(x_s | x_t) p~(x_s) / (q(x_s | x_t) p~(x_t))

with q any guided transition and p~ any guess of p(y | x_t)^scale that is right at the end.
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import check, function, pytree, real, within
from guidance_jax.domain import check_pair
from guidance_jax.guidance.base import strength
from guidance_jax.guidance.classifier import log_prob
from guidance_jax.guidance.gradient import scalar


@pytree
class TwistedTokens:
    """A move for `SMC`: samples p(x) p(y | x)^scale under the chain of `model` and `solver`, whatever the proposal.

    Diffusion of tokens and language models. One call of the model and, if there is one, of the proposal, and one of the
    twist per particle and step.

    Attributes:
      model: the unguided model; its chain is p.
      solver: `Ancestral` or `TauLeap`.
      log_twist: a classifier of x_t, or `f(x_t, level, cond) -> scalar`.
      scale: a number or a function of the level; its value at the clean level decides the target.
      proposal: a guided denoiser that particles move by; None to move by the model.

    Raises:
      ValueError: a model or solver that is not of tokens; a twist that is not one number.
    """

    model: Any
    solver: Any
    log_twist: Any
    scale: Any = 1.0
    proposal: Any = None

    def __post_init__(self):
        object.__setattr__(self, "log_twist", function(self.log_twist))

    def check(self, levels, shape, cond):
        if (
            within(self.model, "process") is None
            or not hasattr(self.solver, "kernel")
            or not hasattr(self.solver, "tokens")
        ):
            raise ValueError("TwistedTokens takes a model and a solver of tokens; for images use Twisted")
        check_pair(self.model, self.log_twist, levels, shape, cond)
        if self.proposal is not None:
            check(self.proposal, levels, shape, cond)

    def init(self, x):
        guide = self.model.init(x), None if self.proposal is None else self.proposal.init(x)
        return guide, jnp.zeros((), real(x))

    def twist(self, x, level, cond):
        return strength(self.scale, level, cond, off=0.0) * scalar(
            log_prob(self.log_twist, x, level, cond), self.log_twist
        )

    def look(self, x, guide, t, cond, key):
        (own, other), before = guide
        pred, own = self.model(x, t, cond, own, key)
        led = pred
        if self.proposal is not None:
            led, other = self.proposal(x, t, cond, other, key)
        value = self.twist(x, t, cond)
        return (pred, led, (own, other), value), value - before

    def go(self, seen, t, s, cond, key):
        pred, led, guide, value = seen
        log_q, log_p = self.solver.kernel(led, t, s), self.solver.kernel(pred, t, s)
        drawn = jax.random.categorical(key, log_q)
        gain = sum_at(log_p, drawn) - sum_at(log_q, drawn)
        return self.solver.place(pred, drawn, s), (guide, value), gain

    def finish(self, x, guide, level, cond, key):
        return self.twist(x, level, cond) - guide[1]


def sum_at(log_p: Any, drawn: Any) -> Any:
    """The log-probability of what was drawn at every position."""
    return jnp.sum(jnp.take_along_axis(log_p, drawn[:, None], 1))
