"""Taylor-approximated guidance, TAG (Nisonoff et al. 2024, arXiv 2406.01572, eq. 5; DiGress before it).

    log p(y | x') - log p(y | x) ~ (x' - x) . grad_x log p(y | x),   x as one-hot vectors

One backward pass in the place of L V forward ones.
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import Refused, as_guide, converted, pytree
from guidance_jax.discrete.predictor import RateGuidance


@pytree
class TAG(RateGuidance):
    """First order in a step of length 1, so only as good as the classifier is smooth between tokens. One gradient a
    step.

    The classifier is asked about one-hot vectors (L, states), which the networks of this package take in the place of
    tokens; the mask, where there is one, is the last state.

    Attributes:
      inner: a denoiser of tokens.
      classifier: a `Guide` of corrupted tokens that takes one-hot vectors, or f(x, level, label) -> log p of them.
      scale: a number, `Window`, `PerClass`, or a function of the level; not negative.

    Raises:
      Refused: a model of images or text; a negative scale; a classifier that does not fit the model.
    """

    inner: Any
    classifier: Any = converted(as_guide)
    scale: Any

    def log_ratios(self, pred, level, cond):
        x = jax.nn.one_hot(pred.x, pred.process.states, dtype=pred.log_p.dtype)
        try:
            g = self.classifier.score(x, level, cond)
        except (TypeError, ValueError, IndexError) as error:
            if isinstance(error, Refused):
                raise
            raise Refused(
                f"TAG differentiates its classifier in one-hot vectors {x.shape}, which it does not take "
                f"({type(error).__name__}); use PredictorGuidance, which asks about tokens"
            ) from error
        return g[:, : pred.process.vocabulary] - jnp.sum(x * g, 1, keepdims=True)
