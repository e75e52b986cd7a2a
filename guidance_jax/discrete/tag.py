"""Taylor-approximated guidance, TAG (Nisonoff et al. 2024, arXiv 2406.01572, eq. 5; DiGress before it).

    log p(y | x') - log p(y | x) ~ (x' - x) . grad_x log p(y | x),   x as one-hot vectors

One backward pass in the place of L V forward ones.
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import pytree
from guidance_jax.discrete.predictor import RateGuidance
from guidance_jax.guidance.classifier import log_prob
from guidance_jax.guidance.gradient import scalar


@pytree
class TAG(RateGuidance):
    """First order in a step of length 1, so only as good as the classifier is smooth between tokens. One gradient a
    step.

    The classifier is asked about one-hot vectors (L, states), which the networks of this package take in the place of
    tokens; the mask, where there is one, is the last state.

    Raises:
      ValueError: a model of images; a classifier that does not fit the model.
    """

    inner: Any
    classifier: Any
    scale: Any

    def log_ratios(self, pred, level, cond):
        x = jax.nn.one_hot(pred.x, pred.process.states, dtype=pred.log_p.dtype)
        g = jax.grad(lambda x: scalar(log_prob(self.classifier, x, level, cond), self.classifier))(x)
        return g[:, : pred.process.vocabulary] - jnp.sum(x * g, 1, keepdims=True)
