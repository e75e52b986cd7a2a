"""Transformers of latent images, conditioned by adaptive layer norm: DiT, SiT, REPA and LightningDiT in one module.

    c = MLP([cos, sin](t)) + E_y
    shift, scale, gate = split(W silu(c))
    h = h + gate_1 attention(norm(h) (1 + scale_1) + shift_1),  h = h + gate_2 mlp(norm(h) (1 + scale_2) + shift_2)

Peebles & Xie 2023 (arXiv 2212.09748). SiT (2401.08740) is the same network with another clock. LightningDiT
(2501.01423) has RMS norms, a gated MLP, rotary positions and normalised queries and keys. Sub-modules carry the names
of the published code; the blocks are one module run by `nn.scan`, so that a network compiles in the time of one block.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import Refused
from guidance_jax.zoo.layers import RMSNorm, patches, perturbed_attention, rotate, share_out, timestep_embedding, zeros

EPSILON = 1e-6
xavier = nn.initializers.xavier_uniform()


class Layers(nn.Module):
    """The base of a block and of the whole network: their common options, and the layers that depend on them."""

    width: int = 1152
    heads: int = 16
    mlp_width: int = 4608
    rms: bool = False
    gated: bool = False
    rotary: bool = False
    qk_norm: bool = False
    mlp_epsilon: float = EPSILON
    dtype: Any = None

    def dense(self, features, name, kernel_init=xavier):
        return nn.Dense(features, dtype=self.dtype, kernel_init=kernel_init, name=name)

    def norm(self, h, name, epsilon=EPSILON):
        """Normalise h. Only an RMS norm has a learned scale; adaptive scales follow."""
        if self.rms:
            return RMSNorm(name=name)(h)
        return nn.LayerNorm(epsilon, use_bias=False, use_scale=False, dtype=self.dtype, name=name)(h)


class Block(Layers):
    """A block on tokens (L, width), a map of `sides`, conditioned by the embedding c (width,) of time and class."""

    sides: tuple[int, int] = (16, 16)

    @nn.compact
    def __call__(self, h, c, perturbation):
        parts = jnp.split(self.dense(6 * self.width, "adaLN_modulation_1", zeros)(nn.silu(c)), 6)
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = parts
        before = h
        h = h + gate * self.attention(self.norm(h, "norm1") * (1 + scale) + shift, perturbation)
        h = h + gate_mlp * self.mlp(self.norm(h, "norm2", self.mlp_epsilon) * (1 + scale_mlp) + shift_mlp)
        if perturbation is not None:
            h = h + jnp.asarray(perturbation.skip, h.dtype) * (before - h)
        return h, None

    def attention(self, h, perturbation):
        qkv = self.dense(3 * self.width, "attn_qkv")(h).reshape(len(h), 3, self.heads, -1)
        q, k, v = jnp.moveaxis(qkv, 1, 0)
        if self.qk_norm:
            q, k = (
                RMSNorm(name=name)(a) if self.rms else nn.LayerNorm(1e-5, dtype=self.dtype, name=name)(a)
                for a, name in ((q, "attn_q_norm"), (k, "attn_k_norm"))
            )
        if self.rotary:
            q, k = (rotate(a, self.sides) for a in (q, k))
        out = perturbed_attention(q, k, v, v, self.sides, perturbation)
        return self.dense(self.width, "attn_proj")(out.reshape(h.shape))

    def mlp(self, h):
        if self.gated:
            gate, up = jnp.split(self.dense(2 * self.mlp_width, "mlp_w12")(h), 2, -1)
            return self.dense(self.width, "mlp_w3")(nn.silu(gate) * up)
        return self.dense(self.width, "mlp_fc2")(nn.gelu(self.dense(self.mlp_width, "mlp_fc1")(h), approximate=True))


class DiT(Layers):
    """`apply(params, x (H, W, C), t, y) -> (H, W, out_channels)`, for one sample; the defaults are XL/2's.

    Attributes:
      width: the number of hidden channels.
      heads: the number of attention heads.
      depth: the number of blocks.
      patch: the side of a patch.
      mlp_width: the number of hidden channels of the MLP, 4 width in DiT.
      rms: whether norms are RMS norms (LightningDiT).
      gated: whether the MLP is a SwiGLU (LightningDiT).
      rotary: whether positions are also rotary (LightningDiT).
      qk_norm: whether queries and keys are normalised (LightningDiT).
      mlp_epsilon: the number that the norm before the MLP adds to the variance.
      out_channels: the channels of x, or twice as many with a learned variance.
      num_classes: the number of rows of the label table, the null label included; 0 for no labels.
      frequency_shift: `shift` of the timestep embedding; 1 in diffusers' DiT, 0 in the published code.
      perturbed: the blocks that a `Perturbation` makes worse; empty for the middle third.
      dtype: the dtype of the computation; None for that of the parameters.
      remat: whether blocks are recomputed in the backward pass, which saves memory.
      unroll: the number of blocks per iteration of the compiled loop over blocks.

    Raises:
      Refused: samples that the patches do not tile; a label for a network without labels, or none for one with labels.
    """

    depth: int = 28
    patch: int = 2
    out_channels: int = 8
    num_classes: int = 1001
    frequency_shift: int = 0
    perturbed: tuple[int, ...] = ()
    remat: bool = False
    unroll: int = 1

    @nn.compact
    def __call__(self, x, t, y=None, perturbation=None):
        sides = rows, columns = x.shape[0] // self.patch, x.shape[1] // self.patch
        if (rows * self.patch, columns * self.patch) != x.shape[:2]:
            raise Refused(f"patches of {self.patch} pixels do not tile samples of shape {x.shape}")
        if (y is None) != (self.num_classes == 0):
            raise Refused(f"the network has num_classes={self.num_classes}, got y={y}; pass a label or None to match")
        h = self.dense(self.width, "x_embedder_proj")(patches(x, self.patch))
        h = h + self.param("pos_embed", lambda _: jnp.asarray(sincos(rows, columns, self.width))).astype(h.dtype)
        c = timestep_embedding(t, 256, shift=self.frequency_shift)
        c = self.dense(self.width, "t_embedder_mlp_0")(c)
        c = self.dense(self.width, "t_embedder_mlp_2")(nn.silu(c))
        if self.num_classes:
            c = c + nn.Embed(self.num_classes, self.width, dtype=self.dtype, name="y_embedder_embedding_table")(y)

        blocks = nn.scan(
            nn.remat(Block, prevent_cse=False) if self.remat else Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, nn.broadcast if perturbation is None else 0),
            length=self.depth,
            unroll=self.unroll,
        )
        shared = {f.name: vars(self)[f.name] for f in dataclasses.fields(Layers) if f.name not in ("parent", "name")}
        shares = None if perturbation is None else share_out(perturbation, self.perturbed, self.depth)
        h, _ = blocks(**shared, sides=sides, name="blocks")(h, c, shares)
        shift, scale = jnp.split(self.dense(2 * self.width, "final_layer_adaLN_modulation_1", zeros)(nn.silu(c)), 2)
        h = self.norm(h, "final_layer_norm_final") * (1 + scale) + shift
        h = self.dense(self.patch**2 * self.out_channels, "final_layer_linear", zeros)(h)
        h = h.reshape(rows, columns, self.patch, self.patch, self.out_channels)
        return jnp.moveaxis(h, 2, 1).reshape(*x.shape[:2], self.out_channels)


def sincos(rows: int, columns: int, width: int) -> np.ndarray:
    """Return fixed positions (rows columns, width): [sin, cos] of the column in the first half, then of the row."""
    frequencies = 10000.0 ** -(np.arange(width // 4) / (width / 4))

    def one(positions):
        angles = positions.reshape(-1, 1) * frequencies
        return np.concatenate([np.sin(angles), np.cos(angles)], 1)

    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    return np.concatenate([one(column), one(row)], 1).astype(np.float32)
