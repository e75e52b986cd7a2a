"""Classifier guidance, score form (Dhariwal & Nichol 2021, arXiv 2105.05233, Algorithm 2).

    eps' = eps - scale sigma grad_x log p(y | x_t),   x0' = x0 + scale (sigma^2 / alpha) grad_x log p(y | x_t)

The gradient of the log-probability is multiplied by sigma_t; write-ups that leave it out guide 1 / sigma_t too much.
Any solver may follow. Algorithm 1, the mean form for DDPM, is the kernel `MeanShift`.
"""

from typing import Any

import jax

from guidance_jax.core import function, pytree
from guidance_jax.domain import check_pair
from guidance_jax.guidance.gradient import GradientGuidance, scalar, scaled


def log_prob(classifier: Any, x: Any, level: Any, label: Any) -> Any:
    """log p(label | x_t) of an object with `log_prob`, or of a plain function."""
    return getattr(classifier, "log_prob", classifier)(x, level, label)


@pytree
class Classifier(GradientGuidance):
    """x0 + scale (sigma^2 / alpha) grad log p(y | x_t): scale 0 is `inner`; 1, on an unconditional model, is p(x | y).

    Keeps x. One call of the inner denoiser and one gradient of the classifier (not through the denoiser), in float32
    or better; where the scale is 0 or outside its `Window`, the gradient is skipped.

    Attributes:
      inner: the denoiser to guide.
      classifier: an object with `log_prob(x, level, label)`, such as `NoisyClassifier`, or a function with those
        arguments. Define a function once: a fresh lambda is a new program.
      scale: a number, `Window`, `PerClass`, or a function of the level.

    Raises:
      ValueError: a classifier of another schedule, shape or number of classes than the model, or labels that it
        does not have.
    """

    inner: Any
    classifier: Any
    scale: Any

    def __post_init__(self):
        object.__setattr__(self, "classifier", function(self.classifier))

    def check(self, levels, shape, cond):
        check_pair(self.inner, self.classifier, levels, shape, cond)

    def look(self, x, level, cond, state, key):
        pred, state = self.inner(x, level, cond, state, key)
        return pred, lambda: score(self.classifier, x, level, cond), state


def score(classifier: Any, x: Any, level: Any, cond: Any) -> Any:
    """grad_x log p(y | x_t): of an object with `score`, else by differentiation."""
    if hasattr(classifier, "score"):
        return classifier.score(x, level, cond)
    return jax.grad(lambda x: scalar(log_prob(classifier, x, level, cond), classifier))(x)


def gradient(classifier: Any, x: Any, level: Any, cond: Any, scale: Any) -> Any:
    """scale grad_x log p(y | x_t), skipped where the scale is off."""
    return scaled(lambda: score(classifier, x, level, cond), scale, level, cond, x)
