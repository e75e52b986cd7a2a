"""Universal guidance (Bansal et al. 2023, arXiv 2302.07121, Algorithm 1). For its recurrence use `Recur`.

forward    eps' = eps - scale sigma grad_x log p(y | x0(x_t))
backward   delta: `steps` steps of gradient ascent on log p(y | x0' + delta),   eps'' = eps' - (alpha / sigma) delta
"""

import dataclasses
from typing import Any

import jax

from guidance_jax.core import pytree, static
from guidance_jax.guidance.reconstruction import Reconstruction
from guidance_jax.guidance.scales import strength


@pytree
class Universal(Reconstruction):
    """Guide by `Reconstruction`, then improve the clean estimate by gradient ascent on the likelihood.

    It makes `steps` more gradients of the likelihood than `Reconstruction`, which it is at `steps=0`. The paper leaves
    the inner optimiser open; here it is plain ascent. The guided prediction still satisfies alpha x0 + sigma eps = x.

    Attributes:
      inner, log_likelihood, scale, through: as in `Reconstruction`.
      rate: the step size of the ascent, in units of x0^2: a number, `Window` or a function of the level. It has no
        default, since it depends on the likelihood.
      steps: the number of ascent steps.
    """

    rate: Any = dataclasses.field(kw_only=True)
    steps: int = static(default=1, kw_only=True)

    def __call__(self, x, level, cond, state, key):
        pred, state = super().__call__(x, level, cond, state, key)
        rate, score = strength(self.rate, level, cond, off=0.0), self.log_likelihood.score
        x0, _ = jax.lax.scan(lambda x0, _: (x0 + rate * score(x0, level, cond), None), pred.x0, length=self.steps)
        return pred.towards(x0, level), state
