"""ControlNet (Zhang et al. 2023, arXiv 2302.05543) on Stable Diffusion's U-Net: its networks, and diffusers' names."""

import dataclasses
import itertools
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from guidance_jax.checkpoints.safetensors_file import Renamed
from guidance_jax.checkpoints.tensors import match_params
from guidance_jax.core import Refused
from guidance_jax.guidance.attention import ReadsCaptions
from guidance_jax.zoo.layers import Conv, zeros
from guidance_jax.zoo.stable_diffusion.names import unet_name
from guidance_jax.zoo.stable_diffusion.unet import StableDiffusionUNet

# names that only ControlNets have; numbers of the hint's blocks increase by two
CONTROL: tuple[tuple[str, Any], ...] = (
    (r"^controlnet_cond_embedding\.conv_in", "input_hint_block.0"),
    (r"^controlnet_cond_embedding\.blocks\.(\d+)", lambda m: f"input_hint_block.{2 + 2 * int(m[1])}"),
    (r"^controlnet_down_blocks\.(\d+)", r"zero_convs.\1.0"),
    (r"^controlnet_mid_block", "middle_block_out.0"),
)


class ControlNet(StableDiffusionUNet):
    """Compute what an image adds to the feature maps of a U-Net's encoder (Zhang et al. 2023, arXiv 2302.05543).

    `apply(params, x, t, cond, image (8 H, 8 W, 3))` returns one array per feature map. It is a copy of the encoder that
    also sees the image, followed by 1 x 1 convolutions that start at zero. `image` is in [0, 1].

    Attributes:
      hint_channels: the channels of the convolutions that bring the image to the size of x; they halve the sides
        between two entries.
    """

    hint_channels: tuple[int, ...] = (16, 32, 96, 256)

    @nn.compact
    def __call__(self, x, t, cond, image):
        hint, number = self.hint(image, self.hint_channels[0], 0), 2
        for here, after in itertools.pairwise(self.hint_channels):
            hint = self.hint(nn.silu(hint), here, number)
            hint = self.hint(nn.silu(hint), after, number + 2, stride=2)
            number += 4
        hint = self.hint(nn.silu(hint), self.model_channels, number)
        maps, _ = self.encode(x, self.embed_condition(t, cond), False, None, cond["context"], hint)
        names = [*(f"zero_convs_{i}_0" for i in range(len(maps) - 1)), "middle_block_out_0"]
        return [
            Conv(h.shape[-1], size=1, kernel_init=zeros, dtype=self.dtype, name=name)(h)
            for h, name in zip(maps, names, strict=True)
        ]

    def hint(self, image, features, number, **options):
        return Conv(features, dtype=self.dtype, name=f"input_hint_block_{number}", **options)(image)


class ControlledUNet(ReadsCaptions, nn.Module):
    """A U-Net and a ControlNet as one network: `cond` also has an `image`, and may have a `strength` (by default 1).

    Attributes:
      denoiser: the U-Net.
      control: the ControlNet.
    """

    denoiser: StableDiffusionUNet
    control: ControlNet

    def __call__(self, x, t, cond, train=False, perturbation=None):
        if not isinstance(cond, dict) or "image" not in cond:
            raise Refused(
                "a network with a ControlNet also needs an image as a condition; write cond | {'image': images}"
            )
        rest = {k: v for k, v in cond.items() if k not in ("image", "strength")}
        strength = jnp.asarray(cond.get("strength", 1.0), x.dtype)
        added = [strength.astype(a.dtype) * a for a in self.control(x, t, rest, cond["image"])]
        return self.denoiser(x, t, rest, train, perturbation, added)

    @property
    def out_channels(self) -> int:
        return self.denoiser.out_channels


def control_of_diffusers(
    state: Mapping[str, Any], about: Mapping[str, Any], network: StableDiffusionUNet, cond: Mapping[str, Any]
) -> tuple[ControlNet, dict]:
    """Return (network, parameters) of diffusers' `ControlNetModel`; its encoder has the shapes of that of `network`.

    Args:
      state: a mapping from tensor names to arrays.
      about: the content of its `config.json`.
      network: the U-Net that it was trained for.
      cond: a condition of the U-Net, for its shapes.

    Raises:
      Refused: a tensor that is missing, left over or of the wrong shape, as in a ControlNet of another U-Net.
    """
    hint = tuple(about.get("conditioning_embedding_out_channels", ControlNet.hint_channels))
    last = (r"^controlnet_cond_embedding\.conv_out", f"input_hint_block.{4 * len(hint) - 2}")
    names = {}
    for key in state:
        name = unet_name(key, network.num_res_blocks, ())
        for old, new in (*CONTROL, last):
            name = re.sub(old, new, name)
        names[name] = key
    fields = [f.name for f in dataclasses.fields(StableDiffusionUNet) if f.name not in ("parent", "name")]
    control = ControlNet(**{k: vars(network)[k] for k in fields}, hint_channels=hint)
    side = 2 ** len(network.channel_mult)
    image = jnp.zeros((side * 2 ** (len(hint) - 1),) * 2 + (3,))
    x = jnp.zeros((side, side, 4))
    return control, match_params(Renamed(state, names), control, x, jnp.zeros(()), cond, image)
