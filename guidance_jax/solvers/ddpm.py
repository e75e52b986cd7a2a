"""DDPM ancestral sampling with the three reverse variances of Dhariwal & Nichol's code.

The mean is that of q(x_s | x_t, x0), whatever the variance (Ho et al. 2020, arXiv 2006.11239, eq. 7):

    x_s ~ N(alpha_s x0 + (alpha_t sigma_s^2 / (alpha_s sigma_t)) eps, Sigma)
    fixed_small    Sigma = beta-tilde = sigma_s^2 (1 - rho^2),   rho = alpha_t sigma_s / (alpha_s sigma_t)
    fixed_large    Sigma = beta       = sigma_t^2 (1 - rho^2)    (the forward variance q(x_t | x_s))
    learned_range  log Sigma = frac log beta + (1 - frac) log beta-tilde   (Nichol & Dhariwal 2021, 2102.09672, eq. 15)
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from guidance_jax.core import (
    Level,
    Normal,
    Prediction,
    Refused,
    Stochastic,
    fresh_share,
    posterior_variance,
    pytree,
    static,
)


def fixed_small(pred: Prediction, t: Level, s: Level, last: Any) -> Any:
    """Return beta-tilde of t and s, exact for data at one point; 0 at the clean level. `pred`, `last` are not used."""
    return posterior_variance(t, s)


def fixed_large(pred: Prediction, t: Level, s: Level, last: Any) -> Any:
    """Return beta of t and s, exact for standard normal data; `last` at the clean level. `pred` is not used."""
    return jnp.where(s.sigma > 0, _forward_variance(t, s), last)


def learned_range(pred: Prediction, t: Level, s: Level, last: Any) -> Any:
    """Interpolate between the logarithms of beta-tilde and beta of t and s by `pred.variance_fraction`.

    `last` stands for beta-tilde on the step to the clean level.

    Raises:
      Refused: a model that predicts no variance.
    """
    if pred.variance_fraction is None:
        raise Refused(
            "the model predicts no variance, got variance=learned_range; use parameterization=LearnedRange() or "
            "variance=fixed_small"
        )
    least = jnp.where(s.sigma > 0, posterior_variance(t, s), last)
    # a bound far below any variance keeps the logarithm finite if `last` is 0
    log_least, log_most = (jnp.log(jnp.maximum(a, 1e-30)) for a in (least, _forward_variance(t, s)))
    return jnp.exp(pred.variance_fraction * log_most + (1 - pred.variance_fraction) * log_least)


def _forward_variance(t: Level, s: Level) -> Any:
    return t.sigma**2 * fresh_share(t, s)


@pytree
class DDPM(Stochastic):
    """Ancestral sampling. First order, one network call per step. No noise is added on the step to the clean level.

    Attributes:
      variance: the reverse variance: `fixed_small`, `fixed_large` or `learned_range`.
      last: the number that `fixed_large` and `learned_range` use on the step to the clean level, where beta-tilde is 0.
        OpenAI's code takes beta-tilde of the step before, which only affects guidance that shifts the mean.
        `DDPM.like_openai(levels, variance)` sets it.

    Raises:
      Refused: `variance=learned_range` with a model that predicts none.
    """

    variance: Callable = static(default=fixed_small)
    last: Any = 0.0

    @classmethod
    def like_openai(cls, levels: Level, variance: Callable = fixed_small) -> "DDPM":
        """Make a solver whose `last` is beta-tilde of the last step but one, as in OpenAI's sampler."""
        return cls(variance, posterior_variance(levels.at(-3), levels.at(-2)))

    def transition(self, pred, t, s):
        """Return N(mean, Sigma) of x_s given x_t. On the step to the clean level Sigma is not used for noise."""
        mean = s.alpha * pred.x0 + t.alpha * s.sigma**2 / (s.alpha * t.sigma) * pred.eps
        return Normal(mean, jnp.sqrt(self.variance(pred, t, s, self.last)), s.sigma == 0)
