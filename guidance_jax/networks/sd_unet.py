"""The U-Net of Stable Diffusion 1, 2 and XL (Rombach et al. 2022, arXiv 2112.10752; Podell et al. 2023, 2307.01952).

It is ADM's U-Net with another attention: transformer blocks in which the pixels attend to themselves, then to a
context, the states of a text encoder, and an MLP with a gated GELU follows. Sub-modules carry the names of the
published single files; the blocks of one transformer are one module run by `nn.scan`.
"""

import itertools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from guidance_jax.core import Refused
from guidance_jax.networks.adm import UNet
from guidance_jax.networks.layers import Conv, Dense, GroupNorm, attend, perturbed_attention, zeros


class StableDiffusionUNet(UNet):
    """`apply(params, x (H, W, C), t, cond) -> (H, W, out_channels)`, for one sample.

    `cond` is a dict: `context` (L, width), the states of the text encoders; and `vector` (K,), the pooled text and the
    embedded sizes, for a network with `added`. Of `perturbed` only the middle block listens, as in PAG's default.

    Attributes:
      transformer_depth: transformer blocks in each level's attention; the middle has the last level's.
      added: whether a vector joins the time embedding (XL).
    """

    use_scale_shift_norm: bool = False
    resblock_updown: bool = False
    transformer_depth: tuple[int, ...] = (1, 1, 1, 1)
    added: bool = False

    @nn.compact
    def __call__(self, x, t, cond, train=False, perturbation=None, control=None):
        return self.unet(x, self.conditioned(t, cond), train, perturbation, cond["context"], control)

    def conditioned(self, t, cond):
        """The embedding of the time, and of the vector if there is one."""
        wanted = {"context", "vector"} if self.added else {"context"}
        if not isinstance(cond, dict) or set(cond) != wanted:
            got = ", ".join(cond) if isinstance(cond, dict) else type(cond).__name__
            raise Refused(f"the network is conditioned on a dict of {', '.join(sorted(wanted))}, got {got}")
        emb = self.embed(t)
        if self.added:
            vector = Dense(emb.shape[-1], dtype=self.dtype, name="label_emb_0_0")(cond["vector"])
            emb = emb + Dense(emb.shape[-1], dtype=self.dtype, name="label_emb_0_2")(nn.silu(vector))
        return emb

    def attention(self, channels, name, level, heads=None):
        return SpatialTransformer(
            self.heads(channels, heads),
            self.transformer_depth[level],
            self.groups,
            name.startswith("middle"),
            self.dtype,
            self.remat,
            name=name,
        )


class ControlNet(StableDiffusionUNet):
    """What an image adds to the feature maps of a U-Net's encoder (Zhang et al. 2023, arXiv 2302.05543).

    `apply(params, x, t, cond, image (8 H, 8 W, 3))` gives one array for each: a copy of the encoder that also sees the
    image, followed by 1 x 1 convolutions which start at zero. `image` is in [0, 1].

    Attributes:
      hint_channels: of the convolutions that bring the image to the size of x, halved between each two.
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
        maps, _ = self.encode(x, self.conditioned(t, cond), False, None, cond["context"], hint)
        names = [*(f"zero_convs_{i}_0" for i in range(len(maps) - 1)), "middle_block_out_0"]
        return [
            Conv(h.shape[-1], size=1, kernel_init=zeros, dtype=self.dtype, name=name)(h)
            for h, name in zip(maps, names, strict=True)
        ]

    def hint(self, image, features, number, **options):
        return Conv(features, dtype=self.dtype, name=f"input_hint_block_{number}", **options)(image)


class ControlledUNet(nn.Module):
    """A U-Net and a ControlNet as one network: `cond` has an `image` as well, and may have a `strength` (1).

    Attributes:
      denoiser: the U-Net.
      control: the ControlNet.
    """

    denoiser: StableDiffusionUNet
    control: ControlNet

    def __call__(self, x, t, cond, train=False, perturbation=None):
        if not isinstance(cond, dict) or "image" not in cond:
            raise Refused("a controlled network is conditioned on an image too; write cond | {'image': images}")
        rest = {k: v for k, v in cond.items() if k not in ("image", "strength")}
        strength = jnp.asarray(cond.get("strength", 1.0), x.dtype)
        added = [strength.astype(a.dtype) * a for a in self.control(x, t, rest, cond["image"])]
        return self.denoiser(x, t, rest, train, perturbation, added)

    @property
    def out_channels(self) -> int:
        return self.denoiser.out_channels


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of one image (H, W, C) and a context (L, width), added to the image."""

    heads: int
    depth: int
    groups: int = 32
    perturbed: bool = False
    dtype: Any = None
    remat: bool = False

    @nn.compact
    def __call__(self, x, perturbation=None, context=None):
        h = GroupNorm(self.groups, 1e-6, name="norm")(x).reshape(-1, x.shape[-1])
        h = Dense(h.shape[-1], dtype=self.dtype, name="proj_in")(h)
        blocks = nn.scan(
            nn.remat(Block, prevent_cse=False) if self.remat else Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=self.depth,
        )
        perturbation = perturbation if self.perturbed else None
        h, _ = blocks(self.heads, x.shape[:2], self.dtype, name="transformer_blocks")(h, context, perturbation)
        return x + Dense(h.shape[-1], dtype=self.dtype, name="proj_out")(h).reshape(x.shape)


class Block(nn.Module):
    """Self-attention, attention to the context, gated MLP; each on a layer norm of its input and added to it."""

    heads: int
    sides: tuple[int, int]
    dtype: Any = None

    @nn.compact
    def __call__(self, h, context, perturbation):
        q, k, v = self.projected(norm := self.norm(h, "norm1"), norm, "attn1")
        out = perturbed_attention(q, k, v, v, self.sides, perturbation)
        h = h + self.dense(h.shape[-1], "attn1_to_out_0")(out.reshape(h.shape))
        q, k, v = self.projected(self.norm(h, "norm2"), context, "attn2")
        h = h + self.dense(h.shape[-1], "attn2_to_out_0")(attend(q, k, v).reshape(h.shape))
        wide, gate = jnp.split(self.dense(8 * h.shape[-1], "ff_net_0_proj")(self.norm(h, "norm3")), 2, -1)
        return h + self.dense(h.shape[-1], "ff_net_2")(wide * nn.gelu(gate, approximate=False)), None

    def projected(self, h, context, name):
        """Queries of `h`, keys and values of `context`, (L, heads, channels) each."""
        sources = {"to_q": h, "to_k": context, "to_v": context}
        return (
            self.dense(h.shape[-1], f"{name}_{part}", use_bias=False)(a).reshape(len(a), self.heads, -1)
            for part, a in sources.items()
        )

    def dense(self, features, name, **options):
        return Dense(features, dtype=self.dtype, name=name, **options)

    def norm(self, h, name):
        return nn.LayerNorm(1e-5, dtype=self.dtype, name=name)(h)
