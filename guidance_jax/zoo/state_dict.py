"""What readers of other people's state dicts share: what must be told, and what is found."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from guidance_jax.core import Refused
from guidance_jax.models.domain import Domain
from guidance_jax.models.parameterizations import Parameterization
from guidance_jax.schedules import Schedule


@dataclasses.dataclass(frozen=True)
class Options:
    """What a state dict does not say. `None` is unknown; one of the two counts of heads is enough.

    `family` tells latent transformers apart: DiT, SiT, REPA or LightningDiT. `null_label` is False for one whose label
    table has no row for "unconditional", because it was trained without conditioning dropout.

    Attributes:
      image_size: side of the images.
      schedule: of the noise.
      num_heads, num_head_channels: of the attentions: their number, or the channels of one.
      use_new_attention_order: the order of a head's projections.
    """

    image_size: int | None = None
    schedule: Schedule | None = None
    num_heads: int | None = None
    num_head_channels: int | None = None
    use_new_attention_order: bool | None = None
    family: str | None = None
    null_label: bool | None = None

    def fill_from(self, other: "Options") -> "Options":
        """Fields that are None here come from `other`; heads and their channels count as one field."""
        own = {k: v for k, v in vars(self).items() if v is not None}
        if {"num_heads", "num_head_channels"} & own.keys():
            other = dataclasses.replace(other, num_heads=None, num_head_channels=None)
        return dataclasses.replace(other, **own)


UNKNOWN = Options()


@dataclasses.dataclass(frozen=True)
class Recognized:
    """A network with its parameters and what it was trained for; no parameterization: a classifier.

    Attributes:
      network, params: as in `Network`: the module, and nested dictionaries of arrays.
      domain: what it was trained for.
      parameterization: what its output means.
    """

    network: Any
    params: Any
    domain: Domain
    parameterization: Parameterization | None


def shape_of(shapes: Mapping[str, tuple[int, ...]], name: str, axes: int) -> tuple[int, ...]:
    """The shape of a tensor that must be there, with so many axes."""
    if name not in shapes:
        raise Refused(f"the checkpoint has no tensor {name}, which every network of this kind has")
    if len(shapes[name]) != axes:
        raise Refused(f"the tensor {name} has shape {shapes[name]}, expected {axes} axes")
    return shapes[name]
