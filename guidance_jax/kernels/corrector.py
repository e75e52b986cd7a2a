"""Langevin corrector steps, and CFG as a predictor-corrector (Bradley & Nakkiran 2024, arXiv 2408.09000, Algorithm 2).

    x_s <- x_s + (v / 2) score(x_s) + sqrt(v) z,   v = step sigma_s^2 (1 - rho^2)

with rho = alpha_t sigma_s / (alpha_s sigma_t). At step = 1, v is the variance that an ancestral step to s adds. Their
theorem holds in the limit of small steps: CFG(w) with DDPM is a DDIM predictor on the conditional model, followed by
one such step on CFG(2 w - 1).
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import (
    Denoiser,
    GaussianDiffusion,
    KernelWrapper,
    Refused,
    check_space,
    need,
    normal,
    posterior_variance,
    pytree,
    static,
)


def not_of_a_population(kernel: KernelWrapper) -> None:
    """Raise `Refused` if `kernel.inner` is a population, whose weights would not account for moves between steps."""
    if kernel.inner.population:
        name = type(kernel).__name__
        raise Refused(
            f"{name} moves samples between the steps, which the weights of a population do not account for; put it "
            f"inside: SMC(BestOf({name}(...), reward))"
        )


@pytree
class Corrector(KernelWrapper):
    """Make `steps` Langevin steps of `model` after each step of `inner`, none at the clean level. step 0 is `inner`.

    `inner` predicts, `model` corrects. With an exact model the corrector preserves the model's marginal, up to O(step).
    Each step makes `steps` calls of `model` besides those of `inner`. The state of `model` starts anew at every call.

    Attributes:
      inner: a kernel of images or vectors, not of populations.
      model: the denoiser whose score corrects.
      step: the size of a Langevin step, as a multiple of the variance that an ancestral step adds.
      steps: the number of Langevin steps, 1 or more.

    Raises:
      Refused: `steps` below 1; tokens; a population, whose weights would not account for the Langevin steps.
    """

    inner: Any
    model: Any
    step: Any = 1.0
    steps: int = static(default=1)

    takes = GaussianDiffusion

    def __post_init__(self):
        if self.steps < 1:
            raise Refused(f"Corrector needs at least one step, got steps={self.steps}; write steps=1")

    def check(self, levels, shape, cond):
        super().check(levels, shape, cond)
        not_of_a_population(self)
        need(self, self.model, Denoiser, "the model")
        check_space(self, self.model.space)
        self.model.check(levels, shape, cond)

    def __call__(self, carry, t, s, cond, key):
        inner_key, langevin_key = jax.random.split(key)
        carry = self.inner(carry, t, s, cond, inner_key)
        v = self.step * posterior_variance(t, s)

        def langevin(x, key):
            model_key, noise_key = jax.random.split(key)
            pred, _ = self.model(x, s, cond, self.model.init(x), model_key)
            return x - v / (2 * s.sigma) * pred.eps + jnp.sqrt(v) * normal(noise_key, x), None

        def correct():
            return jax.lax.scan(langevin, carry.x, jax.random.split(langevin_key, self.steps))[0]

        return carry._replace(x=jax.lax.cond(s.sigma > 0, correct, lambda: carry.x))
