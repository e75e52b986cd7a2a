"""Corrected guidance: weights with which guidance by a contrast samples its target, in every space.

Guidance extrapolates between two reverse chains, weak and strong. If both are reversals of one forward process, the
path density P_weak^(1 - scale) P_strong^scale has the clean marginal p_weak(x)^(1 - scale) p_strong(x)^scale. To sample
it with any proposal q, each particle's log-weight gains per step

    gain = (1 - scale) log p_weak(x_s | x_t) + scale log p_strong(x_s | x_t) - log q(x_s | x_t)

For Gaussian transitions and small steps this tends to the Feynman-Kac corrector of Skreta et al. 2025 (arXiv
2503.02819): scale (scale - 1) g^2 |S_strong - S_weak|^2 dt / 2. With a flat weak model (`Tempered`) it tends to their
annealing, Proposition 3.1. For tokens and text the chains are exact, and so is the gain.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from guidance_jax.core import Move, Refused, float_type, pytree
from guidance_jax.guidance.base import Contrast, only_guided
from guidance_jax.guidance.scales import PerSample, Scale, strength
from guidance_jax.kernels.reverse import Step
from guidance_jax.particles.smc import Followable


@pytree
class Corrected(Followable, Step, Move):
    """Weigh guided samples so that they sample p_weak(x)^(1 - scale) p_strong(x)^scale: a move for `SMC`.

        Corrected(CFG(model, null, 3.0), solver)               p(x)^-2 p(x | y)^3
        Corrected(Classifier(model, classifier, 3.0), solver)  p(x) p(y | x)^3, as far as the classifier is exact;
                                                               so too PredictorGuidance, TAG, FUDGE
        Corrected(Autoguidance(model, weak, 3.0), solver)      p_weak^-2 p^3
        Corrected(Tempered(model, 2.0), solver)                p(x)^2

    It costs no more than the guidance itself. If the classes are well separated, `proposal=1.0` (moving with the strong
    model) needs far fewer particles. For images and vectors use `DDPM(fixed_large)`, whose variance is right near the
    end; the variance of the weights grows with the number of dimensions. For tokens use a solver that changes one token
    at a time (`FirstHitting`, `SingleJump`; text always does). If several change together, the weights have heavy
    tails.

    Attributes:
      model: guidance between two predictions: a `Contrast` whose scale is a number or `PerSample`.
      solver: a solver with a transition of positive variance.
      proposal: the strength at which particles move: a number, `Window` or function of the level; None to move by the
        guidance itself, whatever its rule.

    Raises:
      Refused: guidance that does not aim at a power of two densities; a scale that changes with the level or class; a
        solver without a transition or without variance.
    """

    model: Any
    solver: Any
    proposal: Any = None

    weighs = True

    @property
    def overwritable(self):
        return False

    def check(self, levels, shape, cond):
        guidance, name = self.model, type(self.model).__name__
        if not isinstance(guidance, Contrast) or not guidance.aims_at_power:
            raise Refused(
                f"Corrected needs guidance whose target is a power of two densities, got {name}; use CFG, Classifier, "
                "Autoguidance, Tempered, PredictorGuidance or FUDGE"
            )
        changes = isinstance(guidance.scale, Scale) and not isinstance(guidance.scale, PerSample)
        if changes or callable(guidance.scale):
            raise Refused(f"Corrected needs one constant scale, got a scale of {name} that changes; write a number")
        if not isinstance(guidance.scale, PerSample) and np.ndim(guidance.scale) != 0:
            raise Refused(
                f"Corrected needs one constant scale, got scales of shape {np.shape(guidance.scale)}; use PerSample"
            )
        super().check(levels, shape, cond)

    def init(self, x):
        return self.model.init(x)

    def potential(self, x, state, t, cond, key):
        guided, strong, weak, state = self.model.parts(x, t, cond, state, key)
        weak = only_guided(self.model, weak, strong)  # no difference in channels that are not guided
        if self.proposal is not None:
            guided = strong.contrast(weak, strength(self.proposal, t, cond, off=1.0), t)
        return (guided, strong, weak, state), jnp.zeros((), float_type(x))

    def propose(self, found, t, s, cond, key):
        x = self.solver.transition(found[0], t, s).draw(key)
        return x, *self.follow(found, x, t, s, cond)[:2]

    def follow(self, found, x, t, s, cond):
        *preds, state = found
        q, strong, weak = (self.solver.transition(pred, t, s).log_prob(x) for pred in preds)
        scale = strength(self.model.scale, t, cond, off=1.0)
        target = times(scale, strong) + times(1 - scale, weak)
        return state, target - q, target


def times(power: Any, log_p: Any) -> Any:
    """Return power log p, and 0 if `power` is 0, also where log p is infinite."""
    return jnp.where(power == 0, 0, power * jnp.where(power == 0, 0, log_p))
