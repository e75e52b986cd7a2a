"""Guidance away from a perturbed model, with CFG or alone: PAG, skipped layers, smoothed energy.

    D = D_u + scale (D_c - D_u) + weak_scale (D_c - D_weak)

PAG (Ahn et al. 2024, arXiv 2403.17377): the weak model's attention maps are identities. Skipped layers (Hyung et al.
2024, 2411.18664): its middle is left out. SEG (Hong 2024, 2408.00760): its attention queries are blurred.
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
    """How a network is made worse on purpose: traced numbers, 0 for not at all.

    Attributes:
      attention: the share of every self-attention map replaced by the identity (PAG: 1).
      blur: the standard deviation, in pixels of the feature map, by which attention queries are blurred (SEG).
      skip: the share of the middle blocks' contribution that is left out (skipped layers: 1).
        Where `guide_attention` alone made it, these three are None.
      away: what attention to a caption is guided away from, an `AttentionContrast`; None for nothing.
    """

    attention: Any = 0.0
    blur: Any = 0.0
    skip: Any = 0.0
    away: Any = None

    @property
    def worsens(self) -> bool:
        """Whether there is anything but `away`."""
        return self.attention is not None


def perturb(model: Network, attention: Any = 0.0, blur: Any = 0.0, skip: Any = 0.0) -> Network:
    """A weak version of `model` for `Autoguidance` or `Perturbed`: the same parameters, worse layers.

    Its `apply` must take `perturbation=`, as `ADMUNet` does. Without attention in the network, `attention` and `blur`
    have nothing to act on and guidance with it is none.

    Args:
      model: the network.
      attention, blur, skip: as in `Perturbation`.

    Raises:
      Refused: a network that has no such argument.
    """
    apply: Any = model.apply
    bound = isinstance(apply, MethodType)  # of a Linen module, whose own call takes the arguments
    called = type(apply.__self__).__call__ if bound else apply
    if isinstance(called, FunctionType) and "perturbation" not in inspect.signature(apply).parameters:
        taken = inspect.signature(called).parameters
        if "perturbation" not in taken and not any(p.kind == p.VAR_KEYWORD for p in taken.values()):
            name = type(apply.__self__).__name__ if bound else called.__name__
            raise Refused(
                f"perturb needs a network that takes perturbation=, got {name}; use Autoguidance with another"
            )
    away = None if model.perturbation is None else model.perturbation.away
    return dataclasses.replace(model, perturbation=Perturbation(attention, blur, skip, away))


@pytree
class Perturbed(TwoConditions):
    """CFG plus a contrast with `weak`, for example `perturb(model, attention=1.0)`. Keeps x.

    One network call with both conditions and one of the weak model, skipped outside the window of `weak_scale`. scale 1
    asks for the contrast with the weak model only; then `Autoguidance(model, weak, 1 + weak_scale)` is the same and
    saves the unconditional call.

    Attributes:
      inner, null, scale, in_turn: as in `TwoConditions`.
      weak: the perturbed model.
      weak_scale: the strength of the contrast with it, 0 for none: a number, `Window`, or a function of the level.

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
