"""Split Gibbs sampling: PnP-DM of images (Wu et al. 2024, arXiv 2405.18782), SGDD of tokens (Chu 2025, 2503.01161).

    z ~ L(z) q(z | x)                 the likelihood's step, at the level's noise
    x ~ p(x_0 | x_t = z)              the model's own chain from that level down

with q the forward process, N(x, r^2 I) for images. At a fixed level the samples x have the distribution p(x)
(q * L)(x), whatever p is. For a Gaussian measurement this is the posterior with noise of covariance std^2 I + r^2 A
A^T. The error vanishes as r falls, so the levels fall.
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import (
    GaussianDiffusion,
    Solver,
    check_signal,
    check_space,
    need,
    pytree,
    static,
)
from guidance_jax.inverse.likelihood_steps import LikelihoodStep
from guidance_jax.kernels.descend import Descending, check_descent, descend
from guidance_jax.kernels.model_kernel import ModelKernel
from guidance_jax.kernels.reverse import Carry
from guidance_jax.schedules import Schedule


@pytree
class SplitGibbs(Descending, ModelKernel):
    """Alternate draws by the likelihood and by the model, coupled by the level's noise. Steps end with a clean sample.

    There is one sweep per level, with `steps` steps of the solver and no gradient of the model. The noise of the last
    level before the clean one decides the error that remains. The first sweep draws from the model alone.

    Attributes:
      model: a denoiser of images, vectors, or tokens of uniform noise.
      likelihood: `ExactStep` or `LangevinStep`; for tokens `GibbsStep`.
      solver: a solver that draws: `GLASS(schedule)`, `DDIM(1.0)`, `Ancestral()`. The ODE does not draw.
      schedule: the schedule of the levels.
      steps: the number of steps of the solver from each level to the clean one.

    Raises:
      Refused: a deterministic solver; levels on another schedule or without signal; a likelihood for other samples.
    """

    model: Any
    likelihood: Any
    solver: Any
    schedule: Schedule = static()
    steps: int = static(default=10)

    def init(self, x):
        return Carry(x, self.model.init(x), (x, jnp.zeros((), bool)))

    def check(self, levels, shape, cond):
        super().check(levels, shape, cond)
        need(self, self.solver, Solver, "the solver")
        need(self, self.likelihood, LikelihoodStep, "the likelihood")
        for part in (self.solver, self.likelihood):
            check_space(part, self.space)
        check_descent(self, levels)
        check_signal(levels, "SplitGibbs")
        self.likelihood.check(levels, shape, cond)

    def __call__(self, carry, t, s, cond, key):
        draw_key, model_key = jax.random.split(key)
        z, begun = carry.solver_state
        gaussian = isinstance(self.space, GaussianDiffusion)
        noise = carry.x / t.alpha if gaussian else carry.x  # what the first sweep starts from
        new = self.likelihood.draw(draw_key, z, carry.x, t, cond, self.space)
        z = jnp.where(begun, new, noise).astype(carry.x.dtype)
        noisy = t.alpha * z if gaussian else z
        x = descend(self.model, self.solver, self.schedule, self.steps, noisy, t, cond, carry.model_state, model_key)
        z = jnp.where(begun, z, x)
        return Carry(x.astype(carry.x.dtype), carry.model_state, (z, jnp.ones((), bool)))
