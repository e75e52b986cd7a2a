"""What follows sampling: the noise that a flow was trained with comes off (TarFlow, arXiv 2412.06329, section 2.6)."""

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
    """Tweedie's step after sampling a flow that was trained on x + std noise, of one sample (T, C).

        x <- x + std^2 grad [ log p(x | cond) + scale log_likelihood(x) ]

    Args:
      flow: the flow.
      x: (T, C), a sample of it.
      std: of the noise that was added in training.
      cond: the label.
      log_likelihood: f(x) -> scalar of one noisy sample, such as a classifier's log p(y | x); None for none.
      scale: of it.
    """

    def height(x):
        value = flow.log_prob(x, cond)
        return value if log_likelihood is None else value + scale * log_likelihood(x)

    return x + std**2 * jax.grad(height)(x)
