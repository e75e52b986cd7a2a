"""First-hitting sampling (Zheng et al. 2024, arXiv 2409.02908, section 4.1): one token at a time, exact in L steps.

    position and token are drawn together, with probability R(x -> x') / sum R

This is the jump chain of the reverse process. Masked models do not depend on time, so the times of the jumps can be
left out. Each token is decided when all earlier decisions are known.
"""

from typing import Any

import jax.numpy as jnp

from guidance_jax.core import Refused, Stochastic, pytree
from guidance_jax.discrete.ancestral import TokenSolver, log_rates
from guidance_jax.discrete.jump import Jump, log_jump
from guidance_jax.discrete.process import Absorbing


@pytree
class FirstHitting(TokenSolver, Stochastic):
    """Decide one mask per step, exactly for masked models, guidance included. Takes at least L steps.

    With the exact predictor and scale 1 the samples have the distribution p(x | y). One network call per step.

    Attributes:
      temperature, top_k, top_p: as in `Ancestral`.

    Raises:
      Refused: a temperature or `top_p` that is not positive; a `top_k` below 1; fewer steps than tokens; a process
        without masks.
    """

    temperature: Any = None
    top_k: Any = None
    top_p: Any = None

    takes = Absorbing

    def check(self, levels, shape, cond):
        if len(levels.t) <= shape[-1]:
            raise Refused(
                f"FirstHitting decides one token per step: {shape[-1]} tokens need as many steps, got "
                f"{len(levels.t) - 1}; write levels({shape[-1]})"
            )

    def transition(self, pred, t, s):
        rates = log_rates(self.truncate(pred), t)
        some = jnp.any(pred.process.free(pred.x))
        return Jump(jnp.where(some, log_jump(rates), -jnp.inf), jnp.where(some, -jnp.inf, 0), pred.x)
