"""Decoupled annealing posterior sampling, DAPS (Zhang et al. 2024, arXiv 2407.01521, Algorithm 1).

    c = the end of the ODE from x_t,   x0 ~ L(x0) N(x0; c, r^2 I),   x_s = alpha_s x0 + sigma_s z,   r = sigma / alpha

L is the likelihood of the measurement, z fresh noise.
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import (
    GaussianDiffusion,
    Refused,
    check_signal,
    check_space,
    need,
    normal,
    pytree,
    static,
)
from guidance_jax.guidance.gradient import through
from guidance_jax.inverse.likelihood_steps import ExactStep, LikelihoodStep
from guidance_jax.kernels.descend import check_descent, descend
from guidance_jax.kernels.model_kernel import ModelKernel
from guidance_jax.kernels.reverse import Carry
from guidance_jax.schedules import Schedule
from guidance_jax.solvers.ddim import DDIM


@pytree
class DAPS(ModelKernel):
    """Draw a clean sample that fits the measurement at every step, then add fresh noise: large errors can be corrected.

    One step costs `steps` calls of the model and no gradient; with `tweedie`, one call and its pull-backs. The
    published tau = .01 is the std of `likelihood`, whatever the noise of the measurement was. With `tweedie` and the
    right std, DAPS samples the posterior of Gaussian data; otherwise it does so only approximately. The authors'
    Langevin steps lack a factor 1/2 that their Metropolis steps have.

    Attributes:
      model: a denoiser of images or vectors, usually unconditional.
      likelihood: how x0 is drawn: `ExactStep(operator, std)` for a linear measurement, `LangevinStep(likelihood)` for
        any.
      schedule: the schedule of the levels.
      steps: the number of Euler steps of the ODE; with 1 the centre c is the clean estimate.
      tweedie: whether to draw around the clean estimate with its own covariance, (sigma^2 / alpha) J, instead of r^2 I.
        This takes one pull-back for each entry of x, so it is for small samples.

    Raises:
      Refused: tokens; levels on another schedule or without signal; a likelihood that is not a `LikelihoodStep`, or
        with `tweedie` not an `ExactStep`.
    """

    model: Any
    likelihood: Any
    schedule: Schedule = static()
    steps: int = static(default=5)
    tweedie: bool = static(default=False)

    takes = GaussianDiffusion

    def check(self, levels, shape, cond):
        super().check(levels, shape, cond)
        need(self, self.likelihood, LikelihoodStep, "the likelihood")
        check_space(self.likelihood, self.space)
        if self.tweedie and not isinstance(self.likelihood, ExactStep):
            raise Refused("tweedie of DAPS is for linear measurements; write ExactStep(operator, std)")
        check_descent(self, levels)
        check_signal(levels, "DAPS")
        self.likelihood.check(levels, shape, cond)

    def __call__(self, carry, t, s, cond, key):
        model_key, draw_key, noise_key = jax.random.split(key, 3)
        state = carry.model_state
        if self.tweedie:
            pred, pull, state = through(self.model, carry.x, t, cond, state, model_key)
            basis = jnp.eye(carry.x.size, dtype=carry.x.dtype).reshape(-1, *carry.x.shape)
            covariance = t.sigma**2 / t.alpha * jax.vmap(lambda e: pull(e).ravel())(basis)
            covariance = (covariance + covariance.T) / 2
            x0 = self.likelihood.draw_with_covariance(draw_key, pred.x0, covariance, cond)
        else:
            if self.steps == 1:
                pred, state = self.model(carry.x, t, cond, state, model_key)
                centre = pred.x0
            else:
                centre = descend(self.model, DDIM(), self.schedule, self.steps, carry.x, t, cond, state, model_key)
            x0 = self.likelihood.draw(draw_key, centre, centre, t, cond, self.space)
        return Carry(s.noise(x0, normal(noise_key, x0)).astype(carry.x.dtype), state, ())
