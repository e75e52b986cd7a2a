"""Universal guidance (Bansal et al. 2023, arXiv 2302.07121, Algorithm 1): forward, backward; recurrence is `Recur`.

forward    eps' = eps - scale sigma grad_x log p(y | x0(x_t))
backward   delta: `steps` steps of gradient ascent on log p(y | x0' + delta),   eps'' = eps' - (alpha / sigma) delta
"""

from typing import Any

import jax

from guidance_jax.core import pytree, static
from guidance_jax.guidance.base import strength
from guidance_jax.guidance.reconstruction import Reconstruction


@pytree
class Universal(Reconstruction):
    """`Reconstruction`, then the clean estimate is improved in place. Keeps x.

    `steps` gradients of the likelihood of size `rate` on top of one pull-back through the denoiser; 0 steps are
    `Reconstruction`. The paper leaves the inner optimiser open; this is plain ascent.
    """

    steps: int = static(default=1)
    rate: Any = 0.0

    def __call__(self, x, level, cond, state, key):
        pred, state = super().__call__(x, level, cond, state, key)
        rate, ascent = strength(self.rate, level, cond, off=0.0), jax.grad(self.log_f(level, cond))
        x0, _ = jax.lax.scan(lambda x0, _: (x0 + rate * ascent(x0), None), pred.x0, length=self.steps)
        return pred.towards(x0, level), state
