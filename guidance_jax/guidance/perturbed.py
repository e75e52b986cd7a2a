"""Guidance away from a perturbed model, with CFG or alone: PAG, skipped layers, smoothed energy.

    D = D_u + scale (D_c - D_u) + weak_scale (D_c - D_weak)

In the weak model PAG (Ahn et al. 2024, arXiv 2403.17377) replaces attention maps by identities. Skipped layers (Hyung
et al. 2024, 2411.18664) omit the middle blocks. SEG (Hong 2024, 2408.00760) blurs the attention queries.
"""

import dataclasses
import inspect
from types import FunctionType, MethodType
from typing import Any, NamedTuple

from guidance_jax.core import GaussianDiffusion, Refused, pytree
from guidance_jax.guidance.autoguidance import check_weak
from guidance_jax.guidance.base import only_guided
from guidance_jax.guidance.conditions import TwoConditions
from guidance_jax.guidance.scales import active, strength, when
from guidance_jax.models.network import Network


class Perturbation(NamedTuple):
    """The perturbations that make a network worse on purpose. The numbers may be traced; 0 changes nothing.

    Attributes:
      attention: the share of every self-attention map that is replaced by the identity (PAG: 1).
      blur: the standard deviation, in pixels of the feature map, by which attention queries are blurred (SEG).
      skip: the share of the middle blocks' contribution that is left out (skipped layers: 1).
        `attention`, `blur` and `skip` are None if only `guide_attention` set this perturbation.
      away: the `AttentionContrast` that guides attention to captions away from a negative one; None for no contrast.
    """

    attention: Any = 0.0
    blur: Any = 0.0
    skip: Any = 0.0
    away: Any = None

    @property
    def worsens(self) -> bool:
        """Whether `attention`, `blur` and `skip` are set."""
        return self.attention is not None


def perturb(model: Network, attention: Any = 0.0, blur: Any = 0.0, skip: Any = 0.0) -> Network:
    """Return a weak version of `model` for `Autoguidance` or `Perturbed`: the same parameters, worse layers.

    Its `apply` must take `perturbation=`, as `ADMUNet` does. In a network without attention, `attention` and `blur`
    change nothing, so guidance by such a weak model has no effect.

    Args:
      model: the network.
      attention, blur, skip: as in `Perturbation`.

    Raises:
      Refused: a network whose `apply` does not take `perturbation=`.
    """
    apply: Any = model.apply
    bound = isinstance(apply, MethodType)  # of a Linen module, whose `__call__` takes the arguments
    called = type(apply.__self__).__call__ if bound else apply
    if isinstance(called, FunctionType) and "perturbation" not in inspect.signature(apply).parameters:
        taken = inspect.signature(called).parameters
        if "perturbation" not in taken and not any(p.kind == p.VAR_KEYWORD for p in taken.values()):
            name = type(apply.__self__).__name__ if bound else called.__name__
            raise Refused(
                f"perturb needs a network that takes perturbation=, got {name}; use Autoguidance for other networks"
            )
    away = None if model.perturbation is None else model.perturbation.away
    return dataclasses.replace(model, perturbation=Perturbation(attention, blur, skip, away))


@pytree
class Perturbed(TwoConditions):
    """Add to CFG a contrast with a weak model, for example `perturb(model, attention=1.0)`.

    A step is one network call with both conditions and one call of `weak`, skipped outside the window of `weak_scale`.
    At scale 1 only the contrast with `weak` is left: `Autoguidance(model, weak, 1 + weak_scale)` is then the same and
    saves the unconditional call. The guided prediction still satisfies alpha x0 + sigma eps = x.

    Attributes:
      inner, null, scale, in_turn: as in `TwoConditions`.
      weak: the perturbed model.
      weak_scale: the strength of the contrast with `weak`, 0 for none: a number, `Window`, or a function of the level.

    Raises:
      Refused: as `CFG`; a weak model of another space.
    """

    weak: Any
    weak_scale: Any

    takes = GaussianDiffusion
    aims_at_power = False

    def memory(self, x):
        return self.weak.init(x)

    def check(self, levels, shape, cond):
        super().check(levels, shape, cond)
        check_weak(self, self.weak)
        self.weak.check(levels, shape, cond)

    def parts(self, x, level, cond, state, key):
        states, memory = state
        c, u, states = self.predictions(x, level, cond, states, memory, key)
        weak, memory = when(
            active(self.weak_scale, level), lambda: self.weak(x, level, cond, memory, key), lambda: (c, memory)
        )
        w, v = strength(self.scale, level, cond, off=1.0), strength(self.weak_scale, level, cond, off=0.0)
        guided = c.towards(u.x0 + w * (c.x0 - u.x0) + v * (c.x0 - weak.x0), level)
        return only_guided(self.inner, guided, c), c, u, (states, memory)
