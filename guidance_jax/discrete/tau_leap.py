"""Tau-leaping (Campbell et al. 2022, arXiv 2205.14987, section 4.1), on a clock for which unguided masks are exact.

    P(position l jumps) = 1 - exp(-R_l dt),   R_l = sum_v R(x_l -> v),   then v with probability R(x_l -> v) / R_l

The published samplers clamp R dt to 1, which flattens strong guidance. Here 1 - exp(-R dt) cannot exceed 1. The last
step is ancestral, so that no mask and no noise remain.
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import Categorical, Stochastic, pytree
from guidance_jax.discrete.ancestral import TokenSolver, log_rates
from guidance_jax.discrete.process import Diffusion


@pytree
class TauLeap(TokenSolver, Stochastic):
    """Let all positions jump independently, with rates that stay constant within a step. One network call per step.

    The error is of first order in the step size. Guidance multiplies the rates (Nisonoff et al. 2024).

    Attributes:
      temperature, top_k, top_p: as in `Ancestral`.

    Raises:
      Refused: a temperature or `top_p` that is not positive; a `top_k` below 1; a language model, which has no
        rates.
    """

    temperature: Any = None
    top_k: Any = None
    top_p: Any = None

    takes = Diffusion

    def transition(self, pred, t, s):
        pred = self.truncate(pred)
        process: Any = pred.process
        rates = log_rates(pred, t)
        rates = jnp.pad(rates, ((0, 0), (0, process.states - process.vocabulary)), constant_values=-jnp.inf)
        some = jnp.any(rates != -jnp.inf, -1, keepdims=True)
        total = jnp.sum(jnp.exp(rates), -1, keepdims=True)
        total = jnp.where(some, process.elapsed(t, s) * jnp.where(some, total, 1), 0)
        where = jax.nn.log_softmax(jnp.where(some, rates, 0))
        jump = jnp.where(some, jnp.log(-jnp.expm1(-total)) + where, -jnp.inf)
        here = jax.nn.one_hot(pred.x, process.states, dtype=bool)
        leap = jnp.where(here, -total, jump)
        return Categorical(jnp.where(s.sigma > 0, leap, process.transition(pred, t, s).log_q))
