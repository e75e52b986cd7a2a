"""GLIDE's text-conditional U-Net (Nichol et al. 2021, arXiv 2112.10741): an ADM whose attention reads a caption.

A transformer reads the caption. Its last output is projected and added to the time embedding. All its outputs are keys
and values in every attention of the U-Net. The fields of the text part, `text_ctx`, `xf_width`, `xf_layers` and
`xf_heads`, have the names of OpenAI's code. Tokens of -1 are padding, which has learned embeddings; a caption that is
padding alone means "unconditional".
"""

import flax.linen as nn
import jax.numpy as jnp

from guidance_jax.core import Refused
from guidance_jax.zoo.layers import Dense, attend, zeros
from guidance_jax.zoo.unet import UNet


class GLIDEUNet(UNet):
    """`apply(params, x (H, W, C), t, cond) -> (H, W, out_channels)`, for one sample.

    `cond` is the tokens (text_ctx,), -1 for padding; or, for the inpainting model, a dict of `tokens`, `image`
    (H, W, C) and `mask` (H, W, 1), 1 where the image is known. `apply(params, None, None, cond)` encodes the tokens of
    a condition: it returns a condition with `context` (text_ctx, xf_width) in their place. `apply` also takes such a
    condition.
    """

    text_ctx: int = 128
    xf_width: int = 512
    xf_layers: int = 16
    xf_heads: int = 8
    vocabulary: int = 50257
    inpaint: bool = False

    @nn.compact
    def __call__(self, x, t, cond, train=False, perturbation=None):
        parts = dict(cond) if isinstance(cond, dict) else {"tokens": cond}
        text = parts.pop("context", None)
        text = self.read(parts.pop("tokens")) if text is None else text
        if x is None:
            return {"context": text, **parts}
        if self.inpaint:
            image, mask = parts.get("image", jnp.zeros_like(x)), parts.get("mask", jnp.zeros_like(x[..., :1]))
            x = jnp.concatenate([x, (image * mask).astype(x.dtype), mask.astype(x.dtype)], -1)
        emb = self.embed(t)
        emb = emb + Dense(4 * self.model_channels, dtype=self.dtype, name="transformer_proj")(text[-1])
        return self.unet(x, emb, train, perturbation, text)

    def read(self, tokens):
        """Return the transformer's output for a caption, (text_ctx, xf_width)."""
        if tokens is None or tokens.shape != (self.text_ctx,):
            shape = None if tokens is None else tokens.shape
            raise Refused(
                f"captions have {self.text_ctx} tokens, -1 for padding, got {shape}; an empty caption is "
                f"jnp.full({self.text_ctx}, -1)"
            )
        shape = (self.text_ctx, self.xf_width)
        positions = self.param("positional_embedding", nn.initializers.normal(0.01), shape)
        padding = self.param("padding_embedding", nn.initializers.normal(0.01), shape)
        table = nn.Embed(self.vocabulary, self.xf_width, name="token_embedding")
        known = (tokens >= 0)[:, None]
        h = jnp.where(known, table(jnp.maximum(tokens, 0)) + positions, padding)
        h = TextTransformer(self.xf_layers, self.xf_heads, self.dtype, name="transformer")(h)
        return nn.LayerNorm(1e-5, name="final_ln")(h)


class TextTransformer(nn.Module):
    """Blocks of attention and an MLP, each added to its input. There is no causal mask."""

    layers: int
    heads: int
    dtype: object = None

    @nn.compact
    def __call__(self, h):
        for i in range(self.layers):
            h = TextBlock(self.heads, self.dtype, name=f"resblocks_{i}")(h)
        return h


class TextBlock(nn.Module):
    heads: int
    dtype: object = None

    @nn.compact
    def __call__(self, h):
        length, width = h.shape

        def dense(features, name, **options):
            return Dense(features, dtype=self.dtype, name=name, **options)

        qkv = dense(3 * width, "attn_c_qkv")(nn.LayerNorm(1e-5, name="ln_1")(h))
        q, k, v = jnp.moveaxis(qkv.reshape(length, self.heads, 3, -1), 2, 0)
        h = h + dense(width, "attn_c_proj", kernel_init=zeros)(attend(q, k, v).reshape(length, width))
        wide = nn.gelu(dense(4 * width, "mlp_c_fc")(nn.LayerNorm(1e-5, name="ln_2")(h)), approximate=False)
        return h + dense(width, "mlp_c_proj", kernel_init=zeros)(wide)
