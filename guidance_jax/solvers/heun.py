"""Heun's method for the probability-flow ODE (Karras et al. 2022, arXiv 2206.00364, Algorithm 1), any schedule.

In y = x / alpha and r = sigma / alpha the ODE is dy / dr = eps(y, r).
"""

import jax

from guidance_jax.core import Solver, pytree


@pytree
class Heun(Solver):
    """Second order, deterministic; two network calls a step, one on the step to the clean level (Euler)."""

    def step(self, pred, t, s, evaluate, state, key):
        y = pred.x0 + t.ratio * pred.eps
        h = s.ratio - t.ratio
        euler = s.alpha * (y + h * pred.eps)
        x = jax.lax.cond(
            s.sigma > 0,
            lambda: s.alpha * (y + h * (pred.eps + evaluate(euler, s).eps) / 2),
            lambda: euler,
        )
        return x, state
