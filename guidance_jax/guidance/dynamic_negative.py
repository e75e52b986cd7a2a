"""Dynamic negative guidance (Koulischer et al. 2024, arXiv 2410.14398): avoid a condition, no more than needed.

    D = D_u - w (D_n - D_u),   w = scale p(n | x_t) / (1 - p(n | x_t))

At scale 1 this is the exact denoiser of "not n". The posterior is updated along the chain by Bayes' rule,

    p(n | x_s) = p(n | x_t) p(x_s | x_t, n) / p(x_s | x_t)

where both transitions are the Gaussians of ancestral sampling.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

from guidance_jax.core import GaussianDiffusion, Level, Prediction, pytree, quotient
from guidance_jax.guidance.conditions import TwoConditions
from guidance_jax.solvers.ddim import DDIM


class Memory(NamedTuple):
    """The state: log p(n | x_t), level and both predictions of the step before; `known` is 0 before the first step."""

    log_posterior: Any
    level: Level
    c: Any
    u: Any
    known: Any


def plain(pred: Any) -> Prediction:
    """Return x0 and eps of a prediction alone, so that the state has the same structure for every model."""
    return Prediction(pred.x0, pred.eps)


@pytree
class DynamicNegative(TwoConditions):
    """Guide away from the condition `cond`, in proportion to the odds that x_t leads to it. scale 0 is D_u.

    Each step makes one network call with both conditions. Use a stochastic solver (`DDPM()`, `DDIM(1.0)`): on an ODE
    the posterior is a heuristic. The guided prediction still satisfies alpha x0 + sigma eps = x. Static negative
    guidance is `CFG(model, null, scale=-w)`. To guide towards one condition and away from another, use
    `CFG(model, null=avoided, scale=w)` with the wanted one as the condition.

    Attributes:
      inner, null, in_turn: as in `CFG`.
      scale: the factor of the odds; 1 is exact on exact models. Outside a `Window` it is 0.
      prior: p(n) under the model, between 0 and 1.
      limit: the largest odds that are used, since the odds diverge as p(n | x_t) approaches 1.
    """

    prior: Any = 0.1
    limit: Any = 50.0

    takes = GaussianDiffusion
    aims_at_power = False
    off = 0.0

    def needs_unconditional(self, level, memory):
        return None  # always: outside a window the result is D_u, and the posterior is updated there too

    def keep(self, c, u):
        return u

    def memory(self, x):
        blank, one = Prediction(jnp.zeros_like(x), jnp.zeros_like(x)), jnp.ones((), x.dtype)
        return Memory(jnp.log(self.prior * one), Level(one, one, one), blank, blank, jnp.zeros((), x.dtype))

    def rule(self, c, u, w, x, level, memory):
        own, other = (DDIM(1.0).transition(p, memory.level, level) for p in (memory.c, memory.u))
        gain = quotient(jnp.sum((x - other.mean) ** 2) - jnp.sum((x - own.mean) ** 2), 2 * own.std**2)
        log_posterior = jnp.minimum(memory.log_posterior + memory.known * gain, -1e-6)
        odds = jnp.exp(log_posterior - jnp.log(-jnp.expm1(log_posterior)))
        guided = u.towards(u.x0 - w * jnp.minimum(odds, self.limit) * (c.x0 - u.x0), level)
        here = Level(*(jnp.asarray(a, x.dtype) for a in level))
        return guided, Memory(log_posterior, here, plain(c), plain(u), jnp.ones((), x.dtype))
