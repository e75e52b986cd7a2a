"""The layers of ADM, for one sample: an image (H, W, C) or a sequence (L, C). Statistics are always float32.

Sub-modules carry the names of OpenAI's PyTorch modules (dots between a name and a number become underscores), so that
their checkpoints map one to one.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.zoo.convolution import conv2d

zeros = nn.initializers.zeros_init()
torch_default = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
Dense = partial(nn.Dense, kernel_init=torch_default)


class Conv(nn.Module):
    """A 2-D convolution of one image with zero padding `size // 2`; see `convolution.py` for why not `nn.Conv`."""

    features: int
    size: int = 3
    stride: int = 1
    kernel_init: Any = torch_default
    dtype: Any = None
    pad: tuple[int, int] | None = None  # (before, after); None for size // 2 on both sides

    @nn.compact
    def __call__(self, x):
        w = self.param("kernel", self.kernel_init, (self.size, self.size, x.shape[-1], self.features))
        b = self.param("bias", zeros, (self.features,))
        x, w, b = nn.dtypes.promote_dtype(x, w, b, dtype=self.dtype)
        return conv2d(x, w, self.stride, self.pad) + b


class GroupNorm(nn.Module):
    """Group normalisation over one sample by per-channel sums, in one pass over the data.

    Each group is (x - mean) / sqrt(var + epsilon), var = E x^2 - mean^2; then scale and shift per channel.
    """

    groups: int = 32
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x):
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones_init(), (channels,))
        bias = self.param("bias", zeros, (channels,))
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        axes = tuple(range(x.ndim - 1))
        moments = jnp.stack([jnp.mean(wide, axes), jnp.mean(wide**2, axes)])
        mean, square = jnp.mean(moments.reshape(2, self.groups, -1), -1)
        inverse = jax.lax.rsqrt(jnp.maximum(square - mean**2, 0) + self.epsilon)
        mean, inverse = (jnp.repeat(a, channels // self.groups) for a in (mean, inverse))
        gain = inverse * scale
        return (wide * gain + (bias - mean * gain)).astype(x.dtype)


class RMSNorm(nn.Module):
    """x / sqrt(mean x^2 + epsilon), times a learned scale; in float32."""

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones_init(), (x.shape[-1],))
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        return (wide * jax.lax.rsqrt(jnp.mean(wide**2, -1, keepdims=True) + self.epsilon)).astype(x.dtype) * scale


class StoredNorm(nn.Module):
    """Batch normalisation with the moments of training: (x - mean) / sqrt(var + epsilon), then scale and shift."""

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x):
        ones, shape = nn.initializers.ones_init(), x.shape[-1:]
        mean, var = self.param("mean", zeros, shape), self.param("var", ones, shape)
        scale, bias = self.param("scale", ones, shape), self.param("bias", zeros, shape)
        return (x - mean) * (scale * jax.lax.rsqrt(var + self.epsilon)) + bias


def timestep_embedding(t: Any, size: int, max_period: float = 10000.0, shift: int = 0) -> jax.Array:
    """Return [cos, sin] of t times `size // 2` frequencies, which fall geometrically from 1 to 1 / max_period.

    With `shift` 1 the last frequency is 1 / max_period. With 0 the sequence stops one term before it.
    """
    half = size // 2
    frequencies = jnp.exp(-jnp.log(max_period) * jnp.arange(half) / (half - shift))
    angles = t * frequencies
    return jnp.pad(jnp.concatenate([jnp.cos(angles), jnp.sin(angles)]), (0, size % 2))


def patches(x: jax.Array, size: int) -> jax.Array:
    """Return patches of an image (H, W, C) as rows (H W / size^2, C size^2), with channels first as in PyTorch."""
    h, w, c = x.shape
    return x.reshape(h // size, size, w // size, size, c).transpose(0, 2, 4, 1, 3).reshape(-1, c * size**2)


def rotate(a: jax.Array, sides: tuple[int, int]) -> jax.Array:
    """Apply rotary positions of two axes to a (L, heads, channels), L patches in rows and columns.

    Pairs in the first half of the channels turn by the row, those in the second half by the column.
    """
    half = a.shape[-1] // 2
    frequencies = 10000.0 ** -(np.arange(0, half, 2) / half)
    row, column = (np.arange(n)[:, None] * frequencies for n in sides)
    angles = np.concatenate([np.repeat(row[:, None], sides[1], 1), np.repeat(column[None], sides[0], 0)], -1)
    return turn_pairs(a, angles.reshape(-1, half))


def turn_pairs(a: jax.Array, angles: Any) -> jax.Array:
    """Rotate pairs of neighbouring channels of a (L, heads, channels) by angles (L, channels / 2), in float32."""
    wide = a.astype(jnp.promote_types(a.dtype, jnp.float32))
    angles = jnp.asarray(angles, wide.dtype)[:, None]
    cosine, sine = jnp.cos(angles), jnp.sin(angles)
    one, two = wide[..., ::2], wide[..., 1::2]
    return jnp.stack([one * cosine - two * sine, two * cosine + one * sine], -1).reshape(a.shape).astype(a.dtype)


def upsample(x: jax.Array) -> jax.Array:
    """Double the sides of an image by nearest neighbours."""
    h, w, c = x.shape
    return jnp.broadcast_to(x[:, None, :, None], (h, 2, w, 2, c)).reshape(2 * h, 2 * w, c)


def downsample(x: jax.Array) -> jax.Array:
    """Halve the sides of an image by means of 2 x 2 pixels."""
    h, w, c = x.shape
    return jnp.mean(x.reshape(h // 2, 2, w // 2, 2, c), (1, 3))


def attend(q: jax.Array, k: jax.Array, v: jax.Array, seen: jax.Array | None = None) -> jax.Array:
    """Return softmax attention over (L, heads, channels), in float32 or better. All networks but T5 use it.

    Query i attends to key j where `seen` (queries, keys) is True; None for all pairs. Accelerators use JAX's own
    attention, which has fused kernels there. On a CPU the weights are divided by their sum only after the product with
    the values. This saves a pass over (heads, queries, keys), and a fifth of the time of a DiT.
    """
    if jax.default_backend() != "cpu":
        return jax.nn.dot_product_attention(q, k, v, mask=None if seen is None else seen[None])
    scale = q.shape[-1] ** -0.25
    logits = jnp.einsum("qhc,khc->hqk", q * scale, k * scale)
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    logits = logits if seen is None else jnp.where(seen, logits, -jnp.inf)
    weights = jnp.exp(logits - jax.lax.stop_gradient(jnp.max(logits, -1, keepdims=True)))
    out = jnp.einsum("hqk,khc->hqc", weights.astype(v.dtype), v) / jnp.sum(weights, -1, keepdims=True)
    return jnp.moveaxis(out, 0, 1).astype(v.dtype)


def causal(length: int) -> jax.Array:
    """Return the causal mask (length, length): each position sees itself and those before it."""
    return jnp.tril(jnp.ones((length, length), bool))


def perturbed_attention(q: jax.Array, k: jax.Array, v: jax.Array, own: jax.Array, sides: Any, how: Any) -> jax.Array:
    """Return self-attention of a feature map of `sides`, worsened by the `Perturbation` `how` (None for not at all).

    `own` are the values of the map's own pixels: the result if every pixel attends to itself alone.
    """
    if how is None:
        return attend(q, k, v)
    out = attend(blur_queries(q, sides, how.blur), k, v)
    return out + jnp.asarray(how.attention, out.dtype) * (own - out)


def share_out(perturbation: Any, chosen: Sequence[int], total: int) -> Any:
    """Return a perturbation for each of `total` blocks, 0 outside the `chosen` ones; empty for the middle third."""
    mask = np.isin(np.arange(total), list(chosen or range(total // 3, total - total // 3))).astype(np.float32)
    return jax.tree.map(lambda share: mask * share, perturbation)


def blur_queries(q: jax.Array, sides: tuple[int, int], std: Any) -> jax.Array:
    """Blur queries (H W, heads, channels) over the pixels by a Gaussian of `std` pixels, normalised at the edges."""

    def weights(side):
        gap = jnp.arange(side)[:, None] - jnp.arange(side)
        return jax.nn.softmax(-0.5 * (gap / jnp.maximum(std, 1e-3)) ** 2).astype(q.dtype)

    rows, columns = map(weights, sides)
    grid = jnp.einsum("ai,bj,ijhc->abhc", rows, columns, q.reshape(*sides, *q.shape[1:]))
    return grid.reshape(q.shape)


class ResBlock(nn.Module):
    """A residual block: twice GroupNorm, SiLU, conv, added to the input.

    The embedding enters before the second SiLU, by AdaGN (GN(h) (1 + scale) + shift) or by addition (GN(h + emb)).
    """

    features: int
    resample: Any = None  # None, upsample or downsample, applied after the first normalisation and to the skip
    scale_shift: bool = True
    dropout: float = 0.0
    groups: int = 32
    dtype: Any = None

    @nn.compact
    def __call__(self, x, emb, train=False):
        h = nn.silu(GroupNorm(self.groups, name="in_layers_0")(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = Conv(self.features, dtype=self.dtype, name="in_layers_2")(h)

        width = self.features * (2 if self.scale_shift else 1)
        emb = Dense(width, dtype=self.dtype, name="emb_layers_1")(nn.silu(emb))
        norm = GroupNorm(self.groups, name="out_layers_0")
        if self.scale_shift:
            scale, shift = jnp.split(emb, 2)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + emb)
        h = nn.Dropout(self.dropout, deterministic=not train)(nn.silu(h))
        h = Conv(self.features, kernel_init=zeros, dtype=self.dtype, name="out_layers_3")(h)
        if x.shape[-1] != self.features:
            x = Conv(self.features, size=1, dtype=self.dtype, name="skip_connection")(x)
        return x + h


class AttentionBlock(nn.Module):
    """Self-attention over the pixels of one image, added to the image; pixels also attend to a `context` (L, width).

    `new_order` splits the projection into q, k, v before the heads; most of OpenAI's released models split the heads
    first.
    """

    heads: int
    new_order: bool = False
    groups: int = 32
    dtype: Any = None

    @nn.compact
    def __call__(self, x, perturbation=None, context=None):
        h, w, c = x.shape
        qkv = GroupNorm(self.groups, name="norm")(x.reshape(h * w, c))
        qkv = Dense(3 * c, dtype=self.dtype, name="qkv")(qkv)
        if self.new_order:
            q, k, v = jnp.moveaxis(qkv.reshape(h * w, 3, self.heads, -1), 1, 0)
        else:
            q, k, v = jnp.moveaxis(qkv.reshape(h * w, self.heads, 3, -1), 2, 0)
        own = v
        if context is not None:
            pair = Dense(2 * c, dtype=self.dtype, name="encoder_kv")(context).reshape(len(context), self.heads, 2, -1)
            k, v = (jnp.concatenate([pair[:, :, i], a]) for i, a in enumerate((k, v)))
        out = perturbed_attention(q, k, v, own, (h, w), perturbation)
        out = Dense(c, kernel_init=zeros, dtype=self.dtype, name="proj_out")(out.reshape(h * w, c))
        return x + out.reshape(h, w, c)


class AttentionPool(nn.Module):
    """CLIP's attention pooling: the mean token, with a learned position, attends to all pixels."""

    features: int
    heads: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        h, w, c = x.shape
        position = self.param("positional_embedding", nn.initializers.normal(c**-0.5), (h * w + 1, c))
        tokens = x.reshape(h * w, c)
        tokens = jnp.concatenate([jnp.mean(tokens, 0, keepdims=True), tokens]) + position.astype(x.dtype)
        qkv = Dense(3 * c, dtype=self.dtype, name="qkv_proj")(tokens)
        q, k, v = jnp.moveaxis(qkv.reshape(h * w + 1, 3, self.heads, -1), 1, 0)
        pooled = attend(q[:1], k, v).reshape(c)
        return Dense(self.features, dtype=self.dtype, name="c_proj")(pooled)
