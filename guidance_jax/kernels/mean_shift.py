"""Classifier guidance, mean form (Dhariwal & Nichol 2021, arXiv 2105.05233, Algorithm 1).

    x_s ~ N(mu + scale Sigma grad_x log p(y | x_t), Sigma)

where mu and Sigma are those of the solver's Gaussian kernel. The gradient is taken at x_t, as in their code; their
derivation has it at mu. The score form (Algorithm 2) differs from this form with every solver: per step by the factor
beta_t / (sqrt(alpha_t) Sigma), which grows in the last steps.
"""

from typing import Any

import jax

from guidance_jax.core import GaussianDiffusion, Kernel, as_guide, converted, pytree
from guidance_jax.guidance.gradient import scale_gradient
from guidance_jax.kernels.reverse import Carry, Step
from guidance_jax.models.domain import check_guide


@pytree
class MeanShift(Step, Kernel):
    """Sample from the solver's Gaussian with its mean moved by scale Sigma grad log p(y | x_t).

    The clean estimate stays unguided. No noise is added on the step to the clean level, but the mean is shifted there
    too if the solver has a variance (`DDPM.like_openai`). Each step makes one call of the model and one gradient of the
    classifier.

    Attributes:
      model: a denoiser of images or vectors, usually unconditional.
      solver: a solver with a transition of positive variance, `DDPM()` or `DDIM(1.0)`.
      classifier: a `Guide` of noisy samples, or a function f(x, level, label) -> log p.
      scale: a number, `Window`, `PerClass`, or a function of the level.

    Raises:
      Refused: a solver without a transition, or of variance 0, which would ignore the guidance; tokens; mismatched
        model and classifier.
    """

    model: Any
    solver: Any
    classifier: Any = converted(as_guide)
    scale: Any

    takes = GaussianDiffusion
    weighs = True

    def init(self, x):
        return Carry(x, self.model.init(x), ())

    def check(self, levels, shape, cond):
        self.check_parts(levels, shape, cond)
        check_guide(self, self.model, self.classifier, levels, shape, cond, noisy=True)
        self.model.check(levels, shape, cond)

    def __call__(self, carry, t, s, cond, key):
        model_key, noise_key = jax.random.split(key)
        pred, state = self.model(carry.x, t, cond, carry.model_state, model_key)
        q = self.solver.transition(pred, t, s)
        shift = scale_gradient(lambda: self.classifier.score(carry.x, t, cond), self.scale, t, cond, carry.x)
        return Carry(q.shift(q.std**2 * shift).draw(noise_key), state, ())
