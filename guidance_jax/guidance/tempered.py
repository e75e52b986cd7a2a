"""Tempering: a model at inverse temperature beta, the contrast with a model that prefers nothing.

    score = beta grad log p_t(x)          tokens, text: log p proportional to beta log p

It aims at p(x)^beta. Of noisy levels it is a heuristic, as CFG is; `Corrected(Tempered(model, beta), solver)` samples
p(x)^beta itself: annealing by a Feynman-Kac corrector (Skreta et al. 2025, arXiv 2503.02819, Proposition 3.1).
"""

from typing import Any

from guidance_jax.core import GaussianDiffusion, check_signal, pytree
from guidance_jax.guidance.base import Contrast
from guidance_jax.guidance.scales import strength


@pytree
class Tempered(Contrast):
    """scale beta: 1 is `inner`, above it sharper, 0 the flat model. Keeps x. No network call of its own.

    Sampling of images and vectors starts at N(0, sigma^2 / beta), the tempered noise.

    Attributes:
      inner: any denoiser.
      scale: beta, the inverse temperature: a number, or a function of the level.

    Raises:
      Refused: levels without signal, where the flat model has no clean estimate.
    """

    inner: Any
    scale: Any

    def check(self, levels, shape, cond):
        super().check(levels, shape, cond)
        if isinstance(self.space, GaussianDiffusion):
            check_signal(levels, "Tempered")

    def start(self, key, levels, shape):
        x = self.inner.start(key, levels, shape)
        if not isinstance(self.space, GaussianDiffusion):
            return x
        return strength(self.scale, levels.at(0), None, off=1.0) ** -0.5 * x

    def parts(self, x, level, cond, state, key):
        own, state = self.inner(x, level, cond, state, key)
        flat = self.space.flat(x, level)
        return own.contrast(flat, strength(self.scale, level, cond, off=1.0), level), own, flat, state
