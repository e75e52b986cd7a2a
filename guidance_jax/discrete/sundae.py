"""Decoding of step-unrolled denoising autoencoders, SUNDAE (Savinov et al. 2022, arXiv 2112.06749, section 2.3).

in each step a random share of the positions is drawn again, all at once, from p(. | x_t)
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import Categorical, Stochastic, pytree
from guidance_jax.discrete.ancestral import TokenSolver
from guidance_jax.discrete.process import Uniform


@pytree
class SUNDAE(TokenSolver, Stochastic):
    """Draw a random share of the positions again at every step. One network call per step.

    The network is one trained with `Unrolled` on the uniform process, whose log p means p(x0 | x_t). The chain has no
    noise level: the levels only count its steps. Guidance tilts every draw.

    Attributes:
      temperature, top_k, top_p: as in `Ancestral`.
      share: the probability that a position is drawn again in one step, from 0 to 1.

    Raises:
      Refused: a temperature or `top_p` that is not positive; a `top_k` below 1; a model of masks or text.
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
