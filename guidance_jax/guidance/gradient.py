"""Base classes of gradient methods in score form: x0' = x0 + scale (sigma^2 / alpha) g, where g is a gradient of log p.

A method returns in `predict_and_gradient` what its inner denoiser predicts and a function that computes g. Where the
scale is off, g is not computed. `Reuse` may use an earlier g. In both cases XLA compiles the network once.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import GaussianDiffusion, check_signal, concrete
from guidance_jax.guidance.base import Guidance
from guidance_jax.guidance.scales import Scale, active, strength, when
from guidance_jax.models.domain import check_guide


class GradientGuidance(Guidance):
    """Base class: guide by a gradient g, x0 + scale (sigma^2 / alpha) g. scale 0 is `inner`.

    The guided prediction still satisfies alpha x0 + sigma eps = x. Subclasses have the fields.
    """

    scale: Any

    takes = GaussianDiffusion

    def __call__(self, x, level, cond, state, key):
        pred, gradient, state = self.predict_and_gradient(x, level, cond, state, key)
        return pred.towards(pred.x0 + scale_gradient(in_x0(gradient, level), self.scale, level, cond, x), level), state

    def check(self, levels, shape, cond):
        super().check(levels, shape, cond)
        check_gradient(self, levels, self.scale)

    def predict_and_gradient(
        self, x: Any, level: Any, cond: Any, state: Any, key: Any
    ) -> tuple[Any, Callable[[], Any], Any]:
        """Return (prediction of the inner denoiser, a function without arguments that returns g, new state)."""
        raise NotImplementedError


class EstimateGuidance(Guidance):
    """Base class: guide by the `log_likelihood` of the clean estimate. Subclasses have the fields."""

    log_likelihood: Any

    takes = GaussianDiffusion

    def check(self, levels, shape, cond):
        super().check(levels, shape, cond)
        check_guide(self, self.inner, self.log_likelihood, levels, shape, cond)


def in_x0(gradient: Callable[[], Any], level: Any) -> Callable[[], Any]:
    """Return a function that computes the shift (sigma^2 / alpha) g of the clean estimate, from one that computes g."""
    return lambda: level.sigma**2 / level.alpha * gradient()


def check_gradient(owner: Any, levels: Any, scale: Any) -> None:
    """Raise `Refused` if `owner` would add (sigma^2 / alpha) g where alpha is 0 and `scale` is not off.

    The shift has a limit at alpha = 0, but the gradient there does not give it: every g is 0.
    """
    dark = levels.at(np.asarray(levels.alpha) == 0) if concrete(levels) else None
    if dark is None or not len(dark.alpha):
        return
    on = active(scale, dark)
    if on is None and not callable(scale) and not isinstance(scale, Scale) and concrete(scale):
        on = np.asarray(scale) != 0
    if on is None or not concrete(on) or np.any(on):
        check_signal(levels, f"the gradient of {type(owner).__name__}")


def scale_gradient(gradient: Callable[[], Any], scale: Any, level: Any, cond: Any, like: Any) -> Any:
    """Return scale gradient(), of the shape of `like`; zeros, without computing it, where the scale is off or 0."""
    w, on = strength(scale, level, cond, off=0.0), active(scale, level)
    return when(w != 0 if on is None else on, lambda: w * gradient(), lambda: jnp.zeros_like(like))


def through(inner: Any, x: Any, level: Any, cond: Any, state: Any, key: Any) -> tuple[Any, Callable, Any]:
    """Return (prediction, pull, state): `pull(v)` is J^T v, with J the Jacobian of the clean estimate in x."""

    def f(x):
        pred, new = inner(x, level, cond, state, key)
        return pred.x0, (pred, new)

    _, pull, (pred, state) = jax.vjp(f, x, has_aux=True)
    return pred, lambda v: pull(v)[0], state
