"""CLIP's text encoder (Radford et al. 2021, arXiv 2103.00020): a causal transformer whose states condition images.

Sub-modules carry the names of the transformers library; the layers are one module run by `nn.scan`.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from guidance_jax.zoo.layers import Dense, attend, causal

ACTIVATIONS = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": lambda x: nn.gelu(x, approximate=False),
}


class CLIPText(nn.Module):
    """`apply(params, tokens (L,)) -> {"context": (L, width), "pooled": (projection or width,)}`, for one caption.

    `pooled` is the last layer's state, after its norm, at the end of the text: the first token `end`.

    Attributes:
      vocabulary: the number of tokens.
      length: L, the number of tokens of a caption.
      width: the number of hidden channels.
      depth: the number of layers.
      heads: the number of attention heads.
      mlp_width: the number of hidden channels of the MLP.
      activation: "quick_gelu" (OpenAI's) or "gelu" (OpenCLIP's).
      projection: the number of outputs of the linear map after pooling; 0 for no such map.
      skip: 0 for the states of the last layer after its norm, 1 for those of the layer before it, without a norm.
      end: the token that ends a text; None for the token with the largest number in a text.
      dtype: the dtype of the computation; None for that of the parameters.
    """

    vocabulary: int = 49408
    length: int = 77
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_width: int = 3072
    activation: str = "quick_gelu"
    projection: int = 0
    skip: int = 0
    end: int | None = None
    dtype: Any = None

    @nn.compact
    def __call__(self, tokens):
        h = nn.Embed(self.vocabulary, self.width, dtype=self.dtype, name="embeddings_token_embedding")(tokens)
        h = h + nn.Embed(self.length, self.width, dtype=self.dtype, name="embeddings_position_embedding")(
            jnp.arange(self.length)
        )
        layers = nn.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.depth)
        last, states = layers(self.heads, self.mlp_width, self.activation, self.dtype, name="encoder_layers")(h)
        norm = nn.LayerNorm(1e-5, dtype=self.dtype, name="final_layer_norm")(last)
        at = jnp.argmax(tokens if self.end is None else tokens == self.end)
        pooled = norm[at]
        if self.projection:
            pooled = Dense(self.projection, use_bias=False, dtype=self.dtype, name="text_projection")(pooled)
        return {"context": states[-1 - self.skip] if self.skip else norm, "pooled": pooled}


class Layer(nn.Module):
    """Causal self-attention and an MLP, each on a layer norm of its input and added to it."""

    heads: int
    mlp_width: int
    activation: str
    dtype: Any = None

    @nn.compact
    def __call__(self, h):
        norm = nn.LayerNorm(1e-5, dtype=self.dtype, name="layer_norm1")(h)
        q, k, v = (self.dense(h.shape[-1], f"self_attn_{p}_proj")(norm).reshape(len(h), self.heads, -1) for p in "qkv")
        h = h + self.dense(h.shape[-1], "self_attn_out_proj")(attend(q, k, v, causal(len(h))).reshape(h.shape))
        norm = nn.LayerNorm(1e-5, dtype=self.dtype, name="layer_norm2")(h)
        h = h + self.dense(h.shape[-1], "mlp_fc2")(
            ACTIVATIONS[self.activation](self.dense(self.mlp_width, "mlp_fc1")(norm))
        )
        return h, h

    def dense(self, features, name):
        return Dense(features, dtype=self.dtype, name=name)
