"""Feynman-Kac correctors (Skreta et al. 2025, arXiv 2503.02819): weights that make guidance sample its target.

CFG and classifier guidance extrapolate between two reverse chains, x_s ~ N(m_u + scale (m_c - m_u), v). Noising is the
same for both, so the path density P_u^(1 - scale) P_c^scale has the marginal p(x)^(1 - scale) p(x | y)^scale at the
clean end, and importance sampling it gives each particle, per step,

    gain = scale (scale - 1) |m_c - m_u|^2 / (2 v)

which is the paper's scale (scale - 1) g^2 |S_c - S_u|^2 dt / 2 in the limit of small steps, and nearer at finite ones.
The particles may move at another scale, their `proposal`, for the price of a term that is linear in the noise.
"""

from typing import Any

import jax.numpy as jnp

from guidance_jax.core import function, normal, pytree
from guidance_jax.domain import check_pair
from guidance_jax.guidance.base import pair, strength
from guidance_jax.guidance.cfg import CFG
from guidance_jax.guidance.classifier import score
from guidance_jax.kernels.reverse import needs_variance


class Extrapolated:
    """A move for `SMC` between two predictions; best with `DDPM(fixed_large)`, whose variance is right near the end."""

    model: Any
    scale: Any
    solver: Any
    proposal: Any

    def predictions(self, x, t, cond, state, key):
        """(unconditional, conditional, new state)."""
        raise NotImplementedError

    def init(self, x):
        return self.model.init(x)

    def look(self, x, guide, t, cond, key):
        return self.predictions(x, t, cond, guide, key), jnp.zeros((), x.dtype)

    def go(self, seen, t, s, cond, key):
        u, c, state = seen
        (mean, std), (conditional, _) = self.solver.kernel(u, t, s), self.solver.kernel(c, t, s)
        std, gap, z = jnp.where(s.sigma > 0, std, 0), conditional - mean, normal(key, mean)
        lead = self.scale if self.proposal is None else strength(self.proposal, t, cond, off=1.0)
        steps = jnp.where(std > 0, gap / jnp.where(std > 0, std, 1), 0)
        gain = self.scale * (self.scale - 1) / 2 * jnp.sum(steps**2)
        ahead = self.scale - lead
        gain = gain + ahead * jnp.sum(steps * z) - ahead**2 / 2 * jnp.sum(steps**2)
        return mean + lead * gap + std * z, state, gain

    def finish(self, x, guide, level, cond, key):
        return jnp.zeros((), x.dtype)


@pytree
class CorrectedCFG(Extrapolated):
    """CFG whose population samples p(x)^(1 - scale) p(x | y)^scale. One network call with both conditions a step.

    Where classes are well apart, `proposal=1.0` (move with the conditional model) needs far fewer particles.

    Raises:
      ValueError: as `CFG`; a solver without a Gaussian kernel.
    """

    model: Any
    null: Any
    scale: Any
    solver: Any
    proposal: Any = None

    def init(self, x):
        return CFG(self.model, self.null, self.scale).init(x)[0]

    def check(self, levels, shape, cond):
        needs_variance(self, self.solver)
        CFG(self.model, self.null, self.scale).check(levels, shape, cond)

    def predictions(self, x, t, cond, state, key):
        c, u, state = pair(self.model, x, t, cond, self.null, state, key)
        return u, c, state


@pytree
class CorrectedClassifier(Extrapolated):
    """Classifier guidance whose population samples p(x) p(y | x)^scale, as far as the noisy classifier is exact.

    Raises:
      ValueError: mismatched model and classifier; a solver without a Gaussian kernel.
    """

    model: Any
    classifier: Any
    scale: Any
    solver: Any
    proposal: Any = None

    def __post_init__(self):
        object.__setattr__(self, "classifier", function(self.classifier))

    def check(self, levels, shape, cond):
        needs_variance(self, self.solver)
        check_pair(self.model, self.classifier, levels, shape, cond)

    def predictions(self, x, t, cond, state, key):
        u, state = self.model(x, t, cond, state, key)
        return u, u.towards(u.x0 + t.sigma**2 / t.alpha * score(self.classifier, x, t, cond), t), state
