"""Types that the readers of published state dicts share: the options that a caller gives, and the network found."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from guidance_jax.core import Refused
from guidance_jax.models.domain import Domain
from guidance_jax.models.parameterizations import Parameterization
from guidance_jax.schedules import Schedule


@dataclasses.dataclass(frozen=True)
class Options:
    """Facts about a network that its state dict does not determine. None means unknown.

    Attributes:
      image_size: the side of the images, in pixels.
      schedule: the noise schedule.
      num_heads: the number of heads of an attention; this or `num_head_channels` is enough.
      num_head_channels: the number of channels of a head.
      use_new_attention_order: whether projections are split into q, k, v before the heads; `AttentionBlock`.
      family: the kind of latent transformer: "DiT", "SiT", "REPA" or "LightningDiT".
      null_label: False for a latent transformer whose label table has no row for "unconditional", because it was
        trained without conditioning dropout.
    """

    image_size: int | None = None
    schedule: Schedule | None = None
    num_heads: int | None = None
    num_head_channels: int | None = None
    use_new_attention_order: bool | None = None
    family: str | None = None
    null_label: bool | None = None

    def fill_from(self, other: "Options") -> "Options":
        """Return these options with fields that are None taken from `other`.

        `num_heads` and `num_head_channels` count as one field.
        """
        own = {k: v for k, v in vars(self).items() if v is not None}
        if {"num_heads", "num_head_channels"} & own.keys():
            other = dataclasses.replace(other, num_heads=None, num_head_channels=None)
        return dataclasses.replace(other, **own)


UNKNOWN = Options()


@dataclasses.dataclass(frozen=True)
class Recognized:
    """A network with its parameters and what it was trained for.

    Attributes:
      network: the module.
      params: its parameters, nested dictionaries of arrays.
      domain: what it was trained for.
      parameterization: what its output means; None for a classifier.
    """

    network: Any
    params: Any
    domain: Domain
    parameterization: Parameterization | None


def shape_of(shapes: Mapping[str, tuple[int, ...]], name: str, axes: int) -> tuple[int, ...]:
    """Return the shape of a tensor. Raise `Refused` unless the tensor exists and has this number of `axes`."""
    if name not in shapes:
        raise Refused(f"the checkpoint has no tensor {name}, which every network of this kind has")
    if len(shapes[name]) != axes:
        raise Refused(f"the tensor {name} has shape {shapes[name]}, expected {axes} axes")
    return shapes[name]
