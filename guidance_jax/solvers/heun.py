"""Heun's method for the probability-flow ODE (Karras et al. 2022, arXiv 2206.00364, Algorithm 1), any schedule.

In y = x / alpha and r = sigma / alpha the ODE is dy / dr = eps(y, r).
"""

import jax

from guidance_jax.core import Solver, pytree


@pytree
class Heun(Solver):
    """Second-order deterministic solver with two network calls per step.

    The step to the clean level, and a step from a level without signal, are Euler steps with one call.
    """

    deterministic = True

    def step(self, pred, t, s, evaluate, state, key):
        euler = s.alpha * pred.x0 + s.sigma * pred.eps
        x = jax.lax.cond(
            (s.sigma > 0) & (t.alpha > 0),
            lambda: euler + s.alpha * (s.ratio - t.ratio) * (evaluate(euler, s).eps - pred.eps) / 2,
            lambda: euler,
        )
        return x, state
