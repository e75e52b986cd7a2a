"""Operator splitting of guidance (Wizadwongsa & Suwajanakorn 2023, arXiv 2301.11558, Algorithms 2 and 3).

In y = x / alpha, r = sigma / alpha the guided ODE is dy/dr = eps(y) - scale sigma g. Its two terms are solved in turn,
the model by any solver at a large step, the guide by Euler's method:

    Lie     y += -(r_s - r_t) scale sigma g,   then the solver
    Strang  half of it at t, the solver, half of it at s

With Euler's method both are of first order in the guide. The error of Strang is less than half of that of Lie.
"""

from typing import Any

import jax

from guidance_jax.core import GaussianDiffusion, Kernel, as_guide, converted, pytree, static
from guidance_jax.guidance.gradient import check_gradient, scale_gradient
from guidance_jax.kernels.reverse import Carry, Reverse, Step
from guidance_jax.models.domain import check_guide


@pytree
class Split(Step, Kernel):
    """Step by a solver on the unguided model, and add classifier guidance in separate steps.

    In this way the history of a high-order solver holds unguided predictions only. Each step makes one gradient of the
    classifier (Lie), or two with `strang`, and none through the network. scale 0 is `Reverse(model, solver)`.

    Attributes:
      model: a denoiser of images or vectors, usually unconditional.
      solver: any solver of images or vectors.
      classifier: a `Guide` of noisy samples, or a function f(x, level, label) -> log p.
      scale: a number, `Window`, `PerClass`, or a function of the level.
      strang: whether half of the guide acts before the solver and half after it; if False, all of it acts before.

    Raises:
      Refused: tokens; mismatched model and classifier.
    """

    model: Any
    solver: Any
    classifier: Any = converted(as_guide)
    scale: Any
    strang: bool = static(default=False)

    takes = GaussianDiffusion

    def init(self, x):
        return Carry(x, self.model.init(x), self.solver.init(x))

    def check(self, levels, shape, cond):
        self.check_parts(levels, shape, cond)
        check_guide(self, self.model, self.classifier, levels, shape, cond, noisy=True)
        self.model.check(levels, shape, cond)
        check_gradient(self, levels, self.scale)

    def __call__(self, carry, t, s, cond, key):
        def push(x, level, share):
            def gradient():
                length = (t.ratio - s.ratio) * level.alpha * level.sigma
                return share * length * self.classifier.score(x, level, cond)

            return x + scale_gradient(gradient, self.scale, level, cond, x)

        before = carry._replace(x=push(carry.x, t, 0.5 if self.strang else 1.0))
        after = Reverse(self.model, self.solver)(before, t, s, cond, key)
        if not self.strang:
            return after
        return after._replace(x=jax.lax.cond(s.sigma > 0, lambda: push(after.x, s, 0.5), lambda: after.x))
