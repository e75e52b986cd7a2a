"""Taylor-approximated guidance, TAG (Nisonoff et al. 2024, arXiv 2406.01572, eq. 5; DiGress before it).

    log p(y | x') - log p(y | x) ~ (x' - x) . grad_x log p(y | x),   x as one-hot vectors

One backward pass replaces L V forward passes.
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import Refused, as_guide, converted, first_line, pytree
from guidance_jax.discrete.predictor import RateGuidance


@pytree
class TAG(RateGuidance):
    """Guide rates by a first-order expansion of a classifier. One gradient of the classifier per step.

    The expansion spans a step of length 1, so it is only accurate if the classifier is smooth between tokens. The
    classifier gets one-hot vectors (L, states), which the networks of this package take in place of tokens. Masked
    processes have a state for the mask, by default the last one.

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
                f"TAG differentiates its classifier in one-hot vectors {x.shape}, which the classifier does not "
                f"accept ({first_line(error)}); use PredictorGuidance, which needs no gradient"
            ) from error
        return g[:, : pred.process.vocabulary] - jnp.sum(x * g, 1, keepdims=True)
