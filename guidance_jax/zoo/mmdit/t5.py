"""T5's encoder of captions (Raffel et al. 2020, arXiv 1910.10683), version 1.1 with gated GELU, for SD3 and FLUX.

The logits of the attention are not scaled; a learned number for each head and distance is added. Norms are RMS norms,
and there are no biases. Sub-modules carry the names of the transformers library; the layers are one module run by
`nn.scan`.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.zoo.layers import Dense, RMSNorm


class T5Encoder(nn.Module):
    """`apply(params, tokens (L,)) -> {"context": (L, width)}`, for one caption; padding is read like words.

    Attributes:
      vocabulary: the number of tokens.
      length: L, the number of tokens of a caption.
      width: the number of hidden channels.
      depth: the number of layers.
      heads: the number of attention heads.
      head_width: the number of channels of a head.
      mlp_width: the number of hidden channels of the MLP.
      buckets: the number of buckets of distances, half of them for keys before the query. Buckets of larger distances
        are logarithmic.
      farthest: the distance from which on all distances share one bucket.
      dtype: the dtype of the computation; None for that of the parameters.
    """

    vocabulary: int = 32128
    length: int = 256
    width: int = 4096
    depth: int = 24
    heads: int = 64
    head_width: int = 64
    mlp_width: int = 10240
    buckets: int = 32
    farthest: int = 128
    dtype: Any = None

    @nn.compact
    def __call__(self, tokens):
        h = nn.Embed(self.vocabulary, self.width, dtype=self.dtype, name="shared")(tokens)
        near = nn.Embed(self.buckets, self.heads, name="relative_attention_bias")
        bias = jnp.moveaxis(near(distance_buckets(len(tokens), self.buckets, self.farthest)), -1, 0)
        layers = nn.scan(
            Layer, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=nn.broadcast, length=self.depth
        )
        h, _ = layers(self.heads, self.head_width, self.mlp_width, self.dtype, name="blocks")(h, bias)
        return {"context": RMSNorm(name="final_layer_norm")(h)}


class Layer(nn.Module):
    """Attention and a gated MLP, each on an RMS norm of its input and added to it."""

    heads: int
    head_width: int
    mlp_width: int
    dtype: Any = None

    @nn.compact
    def __call__(self, h, bias):
        norm = RMSNorm(name="layer_0_layer_norm")(h)
        q, k, v = (
            self.dense(self.heads * self.head_width, f"layer_0_SelfAttention_{part}")(norm).reshape(
                len(h), self.heads, self.head_width
            )
            for part in "qkv"
        )
        logits = jnp.einsum("qhc,khc->hqk", q, k).astype(jnp.promote_types(h.dtype, jnp.float32)) + bias
        out = jnp.einsum("hqk,khc->qhc", jax.nn.softmax(logits).astype(v.dtype), v).reshape(len(h), -1)
        h = h + self.dense(h.shape[-1], "layer_0_SelfAttention_o")(out)
        norm = RMSNorm(name="layer_1_layer_norm")(h)
        gate, up = (self.dense(self.mlp_width, f"layer_1_DenseReluDense_wi_{i}")(norm) for i in (0, 1))
        wide = nn.gelu(gate, approximate=True) * up
        return h + self.dense(h.shape[-1], "layer_1_DenseReluDense_wo")(wide), None

    def dense(self, features, name):
        return Dense(features, use_bias=False, dtype=self.dtype, name=name)


def distance_buckets(length: int, buckets: int, farthest: int) -> np.ndarray:
    """Return the bucket of the distance from each query to each key, (length, length)."""
    gap = np.arange(length) - np.arange(length)[:, None]
    half = buckets // 2
    exact = half // 2
    size = np.abs(gap)
    far = np.log(np.maximum(size, 1) / exact) / math.log(farthest / exact) * (half - exact)
    near = np.where(size < exact, size, np.minimum(exact + far.astype(np.int32), half - 1))
    return (near + np.where(gap > 0, half, 0)).astype(np.int32)
