"""Operator splitting of guidance (Wizadwongsa & Suwajanakorn 2023, arXiv 2301.11558, Algorithms 2 and 3).

In y = x / alpha, r = sigma / alpha the guided ODE is dy/dr = eps(y) - scale sigma g. Its two terms are solved in turn:
the model by any solver at a large step, the guide by Euler's method,

    Lie     y += -(r_s - r_t) scale sigma g,   then the solver
    Strang  half of it at t, the solver, half of it at s

Euler's method keeps both of first order in the guide; Strang's error is less than half of Lie's.
"""

from typing import Any

import jax

from guidance_jax.core import function, pytree, static
from guidance_jax.domain import check_pair
from guidance_jax.guidance.classifier import gradient
from guidance_jax.kernels.reverse import Reverse


@pytree
class Split:
    """A solver on the unguided model, classifier guidance beside it: high-order solvers keep their history clean.

    One gradient a step (Lie), two with `strang`, none through the network. scale 0 is `Reverse(model, solver)`.

    Raises:
      ValueError: mismatched model and classifier.
    """

    model: Any
    solver: Any
    classifier: Any
    scale: Any
    strang: bool = static(default=False)

    def __post_init__(self):
        object.__setattr__(self, "classifier", function(self.classifier))

    def init(self, x):
        return Reverse(self.model, self.solver).init(x)

    def check(self, levels, shape, cond):
        check_pair(self.model, self.classifier, levels, shape, cond)
        Reverse(self.model, self.solver).check(levels, shape, cond)

    def __call__(self, carry, t, s, cond, key):
        def push(x, level, share):
            g = gradient(self.classifier, x, level, cond, self.scale)
            return x + share * (t.ratio - s.ratio) * level.alpha * level.sigma * g

        before = carry._replace(x=push(carry.x, t, 0.5 if self.strang else 1.0))
        after = Reverse(self.model, self.solver)(before, t, s, cond, key)
        if not self.strang:
            return after
        return after._replace(x=jax.lax.cond(s.sigma > 0, lambda: push(after.x, s, 0.5), lambda: after.x))
