"""Normalized attention guidance (NAG, Chen et al. 2025, arXiv 2505.21179): guidance inside a network, in one call.

Let z+ be the attention output of a pixel for the caption, and z- its output for a negative caption. z+ is moved away
from z-:

    g = scale z+ - (scale - 1) z-,   z = share g min(1, limit |z+| / |g|) + (1 - share) z+

where |.| is the sum of absolute values over the channels of a pixel.
"""

import dataclasses
import types
from typing import Any, NamedTuple

import jax.numpy as jnp

from guidance_jax.core import Refused
from guidance_jax.guidance.perturbed import Perturbation
from guidance_jax.models.network import Network


class ReadsCaptions:
    """A module whose attention to captions applies `Perturbation.away`: that of Stable Diffusion, SD3 or FLUX."""


class AttentionContrast(NamedTuple):
    """The negative caption and the numbers of `guide_attention`, as a network reads them.

    Attributes:
      context: (L, width), the encoded negative caption of L tokens, read in the place of the condition's context.
      scale, limit, share: as in `guide_attention`.
    """

    context: Any
    scale: Any
    limit: Any
    share: Any

    def combine(self, positive: Any, negative: Any) -> Any:
        """Return z of z+ (`positive`) and z- (`negative`), all of shape (pixels, channels)."""
        guided = self.scale * positive - (self.scale - 1) * negative
        size, wanted = (jnp.sum(jnp.abs(z), -1, keepdims=True) for z in (guided, positive))
        shrunk = guided * jnp.where(size > self.limit * wanted, self.limit * wanted / jnp.where(size > 0, size, 1), 1)
        return self.share * shrunk + (1 - self.share) * positive


def guide_attention(model: Network, negative: Any, scale: Any = 5.0, limit: Any = 2.5, share: Any = 0.25) -> Network:
    """Return `model` with its attention to the caption guided away from a negative caption (NAG).

    Each step still makes one network call. Use it together with classifier-free guidance, or in its place where that
    fails, as in models distilled to a few steps.

    Args:
      model: a network that reads captions by attention: Stable Diffusion's, SD3's, FLUX's.
      negative: a condition of one sample, for example `pipeline.null("blurry")`; its entry "context" is used.
      scale: the strength; 1 changes nothing.
      limit: the largest |g| / |z+|, 1 or more; a larger g is scaled down to it.
      share: the share of the guided output in the result, from 0 to 1; 0 changes nothing.

    Raises:
      Refused: a network that does not read captions by attention; a `negative` that is no condition of one sample.
    """
    network = model.apply.__self__ if isinstance(model.apply, types.MethodType) else model.apply
    if not isinstance(network, ReadsCaptions):
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
