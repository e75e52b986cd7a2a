"""Feynman-Kac correctors (Skreta et al. 2025, arXiv 2503.02819): weights that make guidance sample its target.

With y = x / alpha, r = sigma / alpha and scores S in y, the product of powers prod_i q_i^{a_i} is followed by the
diffusion with score S = sum_i a_i S_i, each particle gaining, per decrease of r^2,

    (|S|^2 - sum_i a_i |S_i|^2) / 2

which is scale (scale - 1) |S_c - S_u|^2 / 2 for guidance, and beta (beta - 1) |S|^2 / 2 for annealing. The integral
over a step is by the trapezoid rule, so the weights are exact in the limit of small steps; `Twisted` is at any.
"""

from typing import Any

import jax.numpy as jnp

from guidance_jax.core import check, function, normal, pytree
from guidance_jax.guidance.base import pair
from guidance_jax.guidance.cfg import CFG
from guidance_jax.guidance.classifier import score
from guidance_jax.kernels.reverse import needs_variance
from guidance_jax.network import same_process


class Corrected:
    """A move for `SMC` whose weight grows at a rate known at every point; see `SMC` for the four parts of a move."""

    def guided(self, x, t, cond, state, key):
        """(guided prediction, rate of log-weight per decrease of r^2, new state)."""
        raise NotImplementedError

    def check(self, levels, shape, cond):
        needs_variance(self, self.solver)
        check(self.model, levels, shape, cond)

    def init(self, x):
        zero = jnp.zeros((), x.dtype)
        return self.model.init(x), zero, zero - 1

    def look(self, x, guide, t, cond, key):
        state, before, square = guide  # the rate at the level before, and its r^2; -1 at the start
        pred, rate, state = self.guided(x, t, cond, state, key)
        gain = jnp.where(square > 0, (before + rate) / 2 * (square - t.ratio**2), 0)
        return (pred, state, rate), gain

    def go(self, seen, t, s, cond, key):
        pred, state, rate = seen
        mean, std = self.solver.kernel(pred, t, s)
        x = mean + jnp.where(s.sigma > 0, std, 0) * normal(key, mean)
        return x, (state, rate, t.ratio**2), jnp.zeros_like(rate)

    def finish(self, x, guide, level, cond, key):
        _, rate, square = guide
        return rate * square  # to the clean level the rate stays what it was


@pytree
class CorrectedCFG(Corrected):
    """CFG whose population samples p(x)^(1 - scale) p(x | y)^scale. One network call with both conditions a step.

    Raises:
      ValueError: as `CFG`; a solver without a Gaussian kernel.
    """

    model: Any
    null: Any
    scale: Any
    solver: Any

    def init(self, x):
        zero = jnp.zeros((), x.dtype)
        return CFG(self.model, self.null, self.scale).init(x)[0], zero, zero - 1

    def check(self, levels, shape, cond):
        needs_variance(self, self.solver)
        CFG(self.model, self.null, self.scale).check(levels, shape, cond)

    def guided(self, x, t, cond, state, key):
        c, u, state = pair(self.model, x, t, cond, self.null, state, key)
        gap = c.x0 - u.x0
        rate = self.scale * (self.scale - 1) / 2 * jnp.sum((gap / t.ratio**2) ** 2)
        return c.towards(u.x0 + self.scale * gap, t), rate, state


@pytree
class CorrectedClassifier(Corrected):
    """Classifier guidance whose population samples p(x) p(y | x)^scale, as far as the noisy classifier is exact.

    Raises:
      ValueError: mismatched model and classifier; a solver without a Gaussian kernel.
    """

    model: Any
    classifier: Any
    scale: Any
    solver: Any

    def __post_init__(self):
        object.__setattr__(self, "classifier", function(self.classifier))

    def check(self, levels, shape, cond):
        same_process(self.model, self.classifier)
        check(self.classifier, levels, shape, cond)
        super().check(levels, shape, cond)

    def guided(self, x, t, cond, state, key):
        pred, state = self.model(x, t, cond, state, key)
        gap = score(self.classifier, x, t, cond)
        rate = self.scale * (self.scale - 1) / 2 * jnp.sum((t.alpha * gap) ** 2)
        return pred.towards(pred.x0 + self.scale * t.sigma**2 / t.alpha * gap, t), rate, state


@pytree
class Annealed(Corrected):
    """The model at inverse temperature beta: its population samples p(x | cond)^beta.

    Starts at N(0, sigma^2 / beta); `log_evidence` is up to a constant. The weights vary with the number of dimensions:
    start where noise only just dominates.
    """

    model: Any
    beta: Any
    solver: Any

    @property
    def start_scale(self):
        return self.beta**-0.5

    def guided(self, x, t, cond, state, key):
        pred, state = self.model(x, t, cond, state, key)
        rate = self.beta * (self.beta - 1) / 2 * jnp.sum((pred.eps / t.ratio) ** 2)
        y = pred.x0 + t.ratio * pred.eps
        return pred.towards(y + self.beta * (pred.x0 - y), t), rate, state
