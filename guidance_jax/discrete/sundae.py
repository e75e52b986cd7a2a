"""Decoding of step-unrolled denoising autoencoders, SUNDAE (Savinov et al. 2022, arXiv 2112.06749, section 2.3).

a random share of the positions is drawn from p(. | x_t) again, all at once, step after step
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import Categorical, Stochastic, pytree
from guidance_jax.discrete.ancestral import TokenSolver
from guidance_jax.discrete.process import Uniform


@pytree
class SUNDAE(TokenSolver, Stochastic):
    """For networks trained with `Unrolled` on the uniform process, whose log p is p(x0 | x_t). One call a step.

    The chain has no noise level: the levels only count its steps. Guidance tilts every draw.

    Attributes:
      temperature, top_k, top_p: as in `Ancestral`.
      share: the share of positions that each step may change.

    Raises:
      Refused: as `Ancestral`; masks or text.
    """

    temperature: Any = None
    top_k: Any = None
    top_p: Any = None
    share: Any = 0.3

    takes = Uniform

    def transition(self, pred, t, s):
        fresh = jax.nn.log_softmax(self.truncate(pred).log_weights)
        kept = jax.nn.one_hot(pred.x, pred.process.vocabulary)
        return Categorical(jnp.log(jnp.maximum(self.share * jnp.exp(fresh) + (1 - self.share) * kept, 1e-38)))
