"""Guidance away from a perturbed model, with CFG or alone: PAG, skipped layers, smoothed energy.

    D = D_u + scale (D_c - D_u) + weak_scale (D_c - D_weak)

PAG (Ahn et al. 2024, arXiv 2403.17377): the weak model's attention maps are identities. Skipped layers (Hyung et al.
2024, 2411.18664): its middle is left out. SEG (Hong 2024, 2408.00760): its attention queries are blurred.

Normalized attention guidance (NAG, Chen et al. 2025, arXiv 2505.21179) works inside a network instead: what every pixel
reads from the caption, z+, is moved away from what it would read from a negative one, z-, in one call of the network:

    g = scale z+ - (scale - 1) z-,   z = share g min(1, limit |z+| / |g|) + (1 - share) z+,   |.| sums over the channels
"""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp

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


class AttentionContrast(NamedTuple):
    """The numbers of `guide_attention`.

    Attributes:
      context: (L, width), what is read in the place of the condition's context.
      scale, limit, share: as in `guide_attention`.
    """

    context: Any
    scale: Any
    limit: Any
    share: Any

    def combine(self, positive: Any, negative: Any) -> Any:
        """z of z+ and z-, both (pixels, channels)."""
        guided = self.scale * positive - (self.scale - 1) * negative
        size, wanted = (jnp.sum(jnp.abs(z), -1, keepdims=True) for z in (guided, positive))
        shrunk = guided * jnp.where(size > self.limit * wanted, self.limit * wanted / jnp.where(size > 0, size, 1), 1)
        return self.share * shrunk + (1 - self.share) * positive


def perturb(model: Network, attention: Any = 0.0, blur: Any = 0.0, skip: Any = 0.0) -> Network:
    """A weak version of `model` for `Autoguidance` or `Perturbed`: the same parameters, worse layers.

    Its `apply` must take `perturbation=`, as `ADMUNet` does. Without attention in the network, `attention` and `blur`
    have nothing to act on and guidance with it is none.

    Args:
      model: the network.
      attention, blur, skip: as in `Perturbation`.
    """
    away = None if model.perturbation is None else model.perturbation.away
    return dataclasses.replace(model, perturbation=Perturbation(attention, blur, skip, away))


def guide_attention(model: Network, negative: Any, scale: Any = 5.0, limit: Any = 2.5, share: Any = 0.25) -> Network:
    """Normalized attention guidance (NAG): `model` whose attention to its caption avoids a negative one. Same cost.

    It replaces classifier-free guidance where that fails, as in models distilled to a few steps, or joins it.

    Args:
      model: a network that reads captions by attention alone, Stable Diffusion's.
      negative: a condition of one sample, for example `pipeline.null("blurry")`.
      scale: the strength; 1 changes nothing.
      limit: the largest growth of |z+| that is left.
      share: of the guided in the result; 0 changes nothing.

    Raises:
      Refused: another network, which would ignore it; a negative that is no condition of the network.
    """
    network = getattr(model.apply, "__self__", None)
    if not getattr(network, "guides_attention", False):
        raise Refused(
            f"guide_attention needs a network that reads captions by attention, got {type(network).__name__}; "
            "use CFG with a negative caption"
        )
    context = negative.get("context") if isinstance(negative, dict) else None
    if context is None or jnp.ndim(context) != 2:
        raise Refused("negative is a condition of one sample, with a context (L, width); write pipeline.null('blurry')")
    before = Perturbation(None, None, None) if model.perturbation is None else model.perturbation
    away = AttentionContrast(jnp.asarray(context), scale, limit, share)
    return dataclasses.replace(model, perturbation=before._replace(away=away))


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
