"""The U-Net of Dhariwal & Nichol 2021 (arXiv 2105.05233), which ADM, GLIDE and Stable Diffusion have in common.

Field names are the constructor arguments of OpenAI's `UNetModel` and `EncoderUNetModel`; `attention_resolutions` holds
downsampling factors. OpenAI's classes do not have the fields `groups` (32 there), `time_scale` (1 there), `dtype` and
`remat`.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from guidance_jax.core import Refused
from guidance_jax.zoo.layers import (
    AttentionBlock,
    Conv,
    Dense,
    GroupNorm,
    ResBlock,
    downsample,
    timestep_embedding,
    upsample,
    zeros,
)


class ADM(nn.Module):
    """The base of the U-Net and the classifier: the fields, the embedding of t, the encoder and the middle.

    Attributes:
      model_channels: the number of channels that `channel_mult` multiplies.
      out_channels: the number of channels of the output; for a classifier the number of classes.
      num_res_blocks: the number of residual blocks per level.
      attention_resolutions: the downsampling factors of the levels with attention.
      channel_mult: the multiple of `model_channels` in each level.
      num_heads: the number of heads of an attention, if `num_head_channels` is -1.
      num_head_channels: the number of channels of a head; -1 to use `num_heads`.
      use_scale_shift_norm: whether the embedding scales and shifts in residual blocks; if not, it is added.
      resblock_updown: whether residual blocks change the resolution; if not, convolutions do.
      use_new_attention_order: whether projections are split into q, k, v before the heads.
      dropout: the dropout rate in residual blocks, in training.
      groups: the number of groups of the norms.
      time_scale: the factor of the clock before it is embedded; use 1000 for schedules on [0, 1].
      dtype: the dtype of the computation; parameters stay float32.
      remat: whether residual blocks are recomputed in the backward pass, which saves memory.
    """

    model_channels: int
    out_channels: int
    num_res_blocks: int
    attention_resolutions: tuple[int, ...]
    channel_mult: tuple[int | float, ...] = (1, 2, 4, 8)
    num_heads: int = 1
    num_head_channels: int = -1
    use_scale_shift_norm: bool = True
    resblock_updown: bool = True
    use_new_attention_order: bool = False
    dropout: float = 0.0
    groups: int = 32
    time_scale: float = 1.0
    dtype: Any = None
    remat: bool = False

    def res(self, features, name, resample=None):
        block = nn.remat(ResBlock, static_argnums=(3,)) if self.remat else ResBlock
        return block(
            int(features), resample, self.use_scale_shift_norm, self.dropout, self.groups, self.dtype, name=name
        )

    def heads(self, channels, heads=None):
        """Return the number of heads of an attention over `channels`; `heads`, if given, replaces `num_heads`."""
        return (heads or self.num_heads) if self.num_head_channels == -1 else channels // self.num_head_channels

    def attention(self, channels, name, level, heads=None):
        """Return the module of the attention in a level."""
        return AttentionBlock(
            self.heads(channels, heads), self.use_new_attention_order, self.groups, self.dtype, name=name
        )

    def embed(self, t):
        emb = timestep_embedding(self.time_scale * t, self.model_channels)
        emb = Dense(4 * self.model_channels, dtype=self.dtype, name="time_embed_0")(emb)
        return Dense(4 * self.model_channels, dtype=self.dtype, name="time_embed_2")(nn.silu(emb))

    def encode(self, x, emb, train, perturbation=None, context=None, hint=None):
        """Return (maps, factor): the encoder's feature maps and the output of the middle; the last downsampling factor.

        Every attention also attends to `context`, vectors (L, width), if given. `hint` is added to the first map.
        """
        factor = 2 ** (len(self.channel_mult) - 1)
        if x.shape[0] % factor or x.shape[1] % factor:
            raise Refused(
                f"{len(self.channel_mult)} resolutions need image sides divisible by {factor}, got {x.shape}; "
                "use fewer entries in channel_mult"
            )
        h = Conv(int(self.channel_mult[0] * self.model_channels), dtype=self.dtype, name="input_blocks_0_0")(x)
        h = h if hint is None else h + hint
        hs, ds, block = [h], 1, 1
        for level, mult in enumerate(self.channel_mult):
            for _ in range(self.num_res_blocks):
                h = self.res(mult * self.model_channels, f"input_blocks_{block}_0")(h, emb, train)
                if ds in self.attention_resolutions:
                    h = self.attention(h.shape[-1], f"input_blocks_{block}_1", level)(h, perturbation, context)
                hs.append(h)
                block += 1
            if level != len(self.channel_mult) - 1:
                if self.resblock_updown:
                    h = self.res(h.shape[-1], f"input_blocks_{block}_0", downsample)(h, emb, train)
                else:
                    h = Conv(h.shape[-1], stride=2, dtype=self.dtype, name=f"input_blocks_{block}_0_op")(h)
                hs.append(h)
                block += 1
                ds *= 2
        before = h
        h = self.res(h.shape[-1], "middle_block_0")(h, emb, train)
        h = self.attention(h.shape[-1], "middle_block_1", level)(h, perturbation, context)
        h = self.res(h.shape[-1], "middle_block_2")(h, emb, train)
        if perturbation is not None and perturbation.worsens:
            h = h + jnp.asarray(perturbation.skip, h.dtype) * (before - h)
        return [*hs, h], ds


class UNet(ADM):
    """A U-Net of encoder, middle and decoder, which an embedding conditions."""

    num_heads_upsample: int = -1
    early: bool = False

    def head(self, h, name, out):
        """Turn feature maps into an output, which is zero at initialisation."""
        h = nn.silu(GroupNorm(self.groups, name=name)(h))
        return Conv(self.out_channels, kernel_init=zeros, dtype=self.dtype, name=out)(h)

    def unet(self, x, emb, train, perturbation=None, context=None, control=None):
        """Return the output for `x` (H, W, C). `control` has one array per map of the encoder, which is added to it.

        With `early`, return (output, early output). The early output is made from the decoder's maps when they reach
        the full resolution.
        """
        maps, ds = self.encode(x, emb, train, perturbation, context)
        *hs, h = maps if control is None else [a + b for a, b in zip(maps, control, strict=True)]
        heads = self.num_heads if self.num_heads_upsample == -1 else self.num_heads_upsample
        block, inner = 0, h
        for level, mult in reversed(list(enumerate(self.channel_mult))):
            for i in range(self.num_res_blocks + 1):
                h = jnp.concatenate([h, hs.pop()], -1)
                h = self.res(mult * self.model_channels, f"output_blocks_{block}_0")(h, emb, train)
                after = 1
                if ds in self.attention_resolutions:
                    attend = self.attention(h.shape[-1], f"output_blocks_{block}_1", level, heads)
                    h = attend(h, perturbation, context)
                    after = 2
                if level and i == self.num_res_blocks:
                    name = f"output_blocks_{block}_{after}"
                    if self.resblock_updown:
                        h = self.res(h.shape[-1], name, upsample)(h, emb, train)
                    else:
                        h = Conv(h.shape[-1], dtype=self.dtype, name=f"{name}_conv")(upsample(h))
                    ds //= 2
                    inner = h
                block += 1
        output = self.head(h, "out_0", "out_2")
        return (output, self.head(inner, "early_0", "early_2")) if self.early else output
