"""Training-free guidance (Ye et al. 2024, arXiv 2409.15761, Algorithm 1), which has other methods as special cases.

    log f~(x0) = log mean_k f(x0 + spread e_k)                    e_k ~ N(0, I), the same for both gradients
    variance guidance   Delta_t = rho grad_x log f~(x0(x_t))      through the denoiser
    mean guidance       Delta_0: `steps` steps x0 += mu grad_x0 log f~(x0)
    x_s = solver(x_t) + (alpha_s / alpha_t) Delta_t + alpha_s Delta_0

The paper's recurrence is `Recur(Reverse(TFG(...), solver), repeats)`. rho, mu and spread are numbers or functions of
the level.
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import as_guide, converted, pytree, static
from guidance_jax.guidance.gradient import EstimateGuidance, check_gradient, through
from guidance_jax.guidance.lgd import smoothed_gradient
from guidance_jax.guidance.scales import strength


@pytree
class TFG(EstimateGuidance):
    """Guide by two gradients of a smoothed likelihood: through the denoiser, and at the clean estimate itself.

    The clean estimate becomes x0 + rho grad / alpha + Delta_0 and eps stays, so alpha x0 + sigma eps is no longer x. At
    rho = mu = 0 it is `inner`. A step is one call of the denoiser, a pull-back and draws (1 + steps) gradients of f.
    Special cases: `TFG.dps` (rho alone), `TFG.lgd` (rho, smoothed), `TFG.freedom` (rho, with `Recur`), `TFG.mpgd` (mu
    alone), `TFG.universal` (both, unsmoothed).

    Attributes:
      inner: the denoiser to guide.
      log_likelihood: a `Guide` of clean samples, or f(x0, level, cond) -> scalar, in nats.
      rho: the step size along the gradient through the denoiser: a number or a function of the level.
      mu: the step size along the gradient at the clean estimate: a number or a function of the level.
      spread: the standard deviation of the smoothing, in units of x0: a number or a function of the level; 0 for none.
      steps: the number of gradient steps on the clean estimate.
      draws: the number of noise draws that smooth the likelihood.

    Raises:
      Refused: a likelihood that returns an array; a classifier of other classes or another shape than the model.
    """

    inner: Any
    log_likelihood: Any = converted(as_guide)
    rho: Any
    mu: Any
    spread: Any = 0.0
    steps: int = static(default=4)
    draws: int = static(default=1)

    @classmethod
    def dps(cls, inner, log_likelihood, rho):
        return cls(inner, log_likelihood, rho, 0.0, steps=0)

    freedom = dps

    @classmethod
    def lgd(cls, inner, log_likelihood, rho, spread, draws):
        return cls(inner, log_likelihood, rho, 0.0, spread, steps=0, draws=draws)

    @classmethod
    def mpgd(cls, inner, log_likelihood, mu):
        return cls(inner, log_likelihood, 0.0, mu, steps=1)

    @classmethod
    def universal(cls, inner, log_likelihood, rho, mu, steps):
        return cls(inner, log_likelihood, rho, mu, steps=steps)

    def check(self, levels, shape, cond):
        super().check(levels, shape, cond)
        check_gradient(self, levels, self.rho)

    def __call__(self, x, level, cond, state, key):
        model_key, noise_key = jax.random.split(key)
        spread = strength(self.spread, level, cond, off=0.0)
        rho, mu = (strength(a, level, cond, off=0.0) for a in (self.rho, self.mu))

        def log_f(x0):
            return self.log_likelihood.value(x0, level, cond)

        def ascent(x0):
            return smoothed_gradient(log_f, x0, spread, self.draws, noise_key)

        pred, pull, state = through(self.inner, x, level, cond, state, model_key)
        variance = jax.lax.cond(rho != 0, lambda: rho / level.alpha * pull(ascent(pred.x0)), lambda: jnp.zeros_like(x))
        x0, _ = jax.lax.scan(lambda x0, _: (x0 + mu * ascent(x0), None), pred.x0, length=self.steps)
        return pred.shift(variance + x0 - pred.x0), state
