"""Remove, after sampling, the noise that a flow was trained with (TarFlow, arXiv 2412.06329, section 2.6)."""

from collections.abc import Callable
from typing import Any

import jax

from guidance_jax.flows.flow import AutoregressiveFlow


def remove_noise(
    flow: AutoregressiveFlow,
    x: Any,
    std: Any,
    cond: Any = None,
    log_likelihood: Callable | None = None,
    scale: Any = 1.0,
) -> Any:
    """Denoise one sample (T, C) of a flow that was trained on x + std noise, by Tweedie's formula.

        x <- x + std^2 grad [ log p(x | cond) + scale log_likelihood(x) ]

    Args:
      flow: the flow.
      x: (T, C), a sample of it.
      std: the standard deviation of the noise that was added in training.
      cond: the label, or None.
      log_likelihood: f(x) -> scalar of one noisy sample, such as a classifier's log p(y | x); None for no guidance.
      scale: the factor of `log_likelihood`.
    """

    def height(x):
        value = flow.log_prob(x, cond)
        return value if log_likelihood is None else value + scale * log_likelihood(x)

    return x + std**2 * jax.grad(height)(x)
