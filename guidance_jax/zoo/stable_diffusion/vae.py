"""The autoencoder of latent diffusion (Rombach et al. 2022, arXiv 2112.10752), as in Stable Diffusion and FLUX.

It has convolutions with group norm and one attention with one head in the middle. The sides are halved or doubled
between levels. Sub-modules carry the names of the published single files.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from guidance_jax.zoo.layers import Conv, Dense, GroupNorm, attend, upsample


class Half(nn.Module):
    """The base of encoder and decoder: the fields, residual blocks and attention."""

    channels: tuple[int, ...]
    blocks: int
    outputs: int
    groups: int
    middle_attention: bool
    dtype: Any

    def norm(self, x, name):
        return GroupNorm(self.groups, 1e-6, name=name)(x)

    def conv(self, x, features, name, **options):
        return Conv(features, dtype=self.dtype, name=name, **options)(x)

    def block(self, x, features, name):
        h = self.conv(nn.silu(self.norm(x, f"{name}_norm1")), features, f"{name}_conv1")
        h = self.conv(nn.silu(self.norm(h, f"{name}_norm2")), features, f"{name}_conv2")
        if x.shape[-1] != features:
            x = self.conv(x, features, f"{name}_nin_shortcut", size=1)
        return x + h

    def middle(self, x):
        x = self.block(x, x.shape[-1], "mid_block_1")
        if self.middle_attention:
            h = self.norm(x, "mid_attn_1_norm").reshape(-1, 1, x.shape[-1])
            q, k, v = (Dense(x.shape[-1], dtype=self.dtype, name=f"mid_attn_1_{part}")(h) for part in "qkv")
            out = Dense(x.shape[-1], dtype=self.dtype, name="mid_attn_1_proj_out")(attend(q, k, v))
            x = x + out.reshape(x.shape)
        return self.block(x, x.shape[-1], "mid_block_2")

    def last(self, x):
        return self.conv(nn.silu(self.norm(x, "norm_out")), self.outputs, "conv_out")


class Encoder(Half):
    """Map an image (H, W, 3) to mean and log-variance of its latents, concatenated in the channels."""

    @nn.compact
    def __call__(self, x):
        x = self.conv(x, self.channels[0], "conv_in")
        for level, features in enumerate(self.channels):
            for i in range(self.blocks):
                x = self.block(x, features, f"down_{level}_block_{i}")
            if level < len(self.channels) - 1:  # zero padding: one row below and one column to the right
                x = self.conv(x, features, f"down_{level}_downsample_conv", stride=2, pad=(0, 1))
        return self.last(self.middle(x))


class Decoder(Half):
    """Map latents (h, w, c) to an image."""

    @nn.compact
    def __call__(self, z):
        z = self.middle(self.conv(z, self.channels[-1], "conv_in"))
        for level, features in reversed(list(enumerate(self.channels))):
            for i in range(self.blocks + 1):
                z = self.block(z, features, f"up_{level}_block_{i}")
            if level:
                z = self.conv(upsample(z), features, f"up_{level}_upsample_conv")
        return self.last(z)


class AutoencoderKL(nn.Module):
    """An autoencoder: `encode` an image (8 h, 8 w, 3) to mean and log-variance of latents (h, w, latent_channels).

    `decode` maps latents to an image. These are the network's own latents; `Autoencoder` scales and shifts them.

    Attributes:
      latent_channels: the number of channels of the latents.
      channels: the number of channels in each level; the sides are halved between levels.
      blocks: the number of residual blocks per level of the encoder; the decoder has one more.
      groups: the number of groups of the norms.
      quant: whether there is a 1 x 1 convolution after the encoder and before the decoder.
      middle_attention: whether the middle has an attention.
      image_channels: the number of channels of the images.
      dtype: the dtype of the computation; None for that of the parameters.
    """

    latent_channels: int = 4
    channels: tuple[int, ...] = (128, 256, 512, 512)
    blocks: int = 2
    groups: int = 32
    quant: bool = True
    middle_attention: bool = True
    image_channels: int = 3
    dtype: Any = None

    def setup(self):
        shared = self.groups, self.middle_attention, self.dtype
        self.encoder = Encoder(self.channels, self.blocks, 2 * self.latent_channels, *shared)
        self.decoder = Decoder(self.channels, self.blocks, self.image_channels, *shared)
        if self.quant:
            self.quant_conv = Conv(2 * self.latent_channels, size=1, dtype=self.dtype)
            self.post_quant_conv = Conv(self.latent_channels, size=1, dtype=self.dtype)

    def encode(self, x):
        """Return (mean, log-variance) of the latents of an image."""
        h = self.encoder(x)
        mean, log_variance = jnp.split(self.quant_conv(h) if self.quant else h, 2, -1)
        return mean, jnp.clip(log_variance, -30.0, 20.0)

    def decode(self, z):
        """Return the image of latents."""
        return self.decoder(self.post_quant_conv(z) if self.quant else z)

    def __call__(self, x):
        return self.decode(self.encode(x)[0])
