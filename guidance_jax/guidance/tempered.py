"""Tempering: a model at inverse temperature beta, by the contrast with a flat model.

    score = beta grad log p_t(x)          tokens, text: log p proportional to beta log p

The target is p(x)^beta. At noisy levels the rule is a heuristic, as CFG is. `Corrected(Tempered(model, beta), solver)`
samples p(x)^beta itself, by annealing with a Feynman-Kac corrector (Skreta et al. 2025, arXiv 2503.02819,
Proposition 3.1).
"""

from typing import Any

from guidance_jax.core import GaussianDiffusion, check_signal, pytree
from guidance_jax.guidance.base import Contrast
from guidance_jax.guidance.scales import strength


@pytree
class Tempered(Contrast):
    """Temper a model by the inverse temperature `scale`: 1 is `inner`, larger values sharpen, 0 is the flat model.

    The flat model has a constant density, or equally likely tokens, and needs no network call. Images and vectors start
    from the tempered noise N(0, sigma^2 / beta), and their guided prediction still satisfies alpha x0 + sigma eps = x.

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
