"""Z-Image's transformer (Alibaba 2025): patches and the states of a language model in one sequence, one set of weights.

    c = MLP([cos, sin](1000 t)),   h <- h + tanh(gate) norm(attention((1 + scale) norm(h))), the same of the MLP

The first few blocks see the patches alone or the caption alone; all later blocks see both. Positions are rotary, with
three axes. Token i of the caption, from 1 on, lies at (i, 0, 0). A patch lies after the caption, at (length + 1, row,
column). Learned tokens fill up both to multiples of 32; they take part in the attention. Sub-modules carry the names of
diffusers; equal blocks are one module run by `nn.scan`.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import Refused
from guidance_jax.zoo.layers import Dense, RMSNorm, attend, timestep_embedding, turn_pairs

MULTIPLE = 32  # sequences are filled up to multiples of this number of tokens
EMBEDDED = 256  # the largest width of the embedding of the time


class Block(nn.Module):
    """A block of attention and a gated MLP on tokens h (N, width).

    Attributes:
      heads: the number of attention heads.
      hidden: the number of hidden channels of the MLP.
      modulated: whether the embedding of the time scales and gates.
      eps: the number that norms add to the variance.
      dtype: the dtype of the computation.
    """

    heads: int
    hidden: int
    modulated: bool = True
    eps: float = 1e-5
    dtype: Any = None

    @nn.compact
    def __call__(self, h, c, angles, seen):
        width = h.shape[-1]
        scale, gate, mlp_scale, mlp_gate = (
            jnp.split(Dense(4 * width, dtype=self.dtype, name="adaLN_modulation_0")(c), 4)
            if self.modulated
            else (0.0, None, 0.0, None)
        )
        n = self.norm("attention_norm1")(h) * (1 + scale)
        q, k, v = (self.dense(width, f"attention_to_{part}")(n).reshape(len(h), self.heads, -1) for part in "qkv")
        q = turn_pairs(RMSNorm(1e-5, name="attention_norm_q")(q).astype(q.dtype), angles)
        k = turn_pairs(RMSNorm(1e-5, name="attention_norm_k")(k).astype(k.dtype), angles)
        out = self.dense(width, "attention_to_out_0")(attend(q, k, v, seen).reshape(len(h), -1))
        h = h + self.close(gate, self.norm("attention_norm2")(out))
        n = self.norm("ffn_norm1")(h) * (1 + mlp_scale)
        wide = nn.silu(self.dense(self.hidden, "feed_forward_w1")(n)) * self.dense(self.hidden, "feed_forward_w3")(n)
        return h + self.close(mlp_gate, self.norm("ffn_norm2")(self.dense(width, "feed_forward_w2")(wide))), None

    def close(self, gate: Any, h: Any) -> Any:
        """Multiply h by tanh of its gate; None is no gate."""
        return h if gate is None else jnp.tanh(gate) * h

    def norm(self, name: str) -> Any:
        norm = RMSNorm(self.eps, name=name)
        return lambda h: norm(h).astype(h.dtype)

    def dense(self, features: int, name: str) -> Any:
        return Dense(features, use_bias=False, dtype=self.dtype, name=name)


class ZImage(nn.Module):
    """`apply(params, x (H, W, C), t, cond) -> (H, W, C)`, for one sample; the defaults are the published model's.

    `cond` is a dict: `context` (L, context width), the states of the language model, and `real` (L,), 1 for tokens of
    the caption and 0 after it.

    Attributes:
      width: the number of hidden channels of the transformer.
      heads: the number of attention heads.
      channels: the number of channels of the latents.
      depth: the number of blocks that see patches and caption.
      refiners: the number of blocks that see the patches alone, and of those that see the caption alone.
      axes: the numbers of channels of a head that rotate with each of the three positions.
      theta: the base of the rotary frequencies.
      scale: the factor of the time before it is embedded.
      eps: the number that norms add to the variance.
      dtype: the dtype of the computation; None for that of the parameters.
      remat: whether blocks are recomputed in the backward pass, which saves memory.

    Raises:
      Refused: samples that patches of 2 x 2 latents do not tile; a condition of another kind.
    """

    width: int = 3840
    heads: int = 30
    channels: int = 16
    depth: int = 30
    refiners: int = 2
    axes: tuple[int, int, int] = (32, 48, 48)
    theta: float = 256.0
    scale: float = 1000.0
    eps: float = 1e-5
    dtype: Any = None
    remat: bool = False

    @nn.compact
    def __call__(self, x, t, cond, train=False):
        rows, columns = sides = x.shape[0] // 2, x.shape[1] // 2
        if (2 * rows, 2 * columns) != x.shape[:2]:
            raise Refused(f"patches of 2 latents do not tile samples of shape {x.shape}")
        if not isinstance(cond, dict) or set(cond) != {"context", "real"}:
            got = ", ".join(cond) if isinstance(cond, dict) else type(cond).__name__
            raise Refused(f"the network is conditioned on a dict of context, real, got {got}")
        c = self.dense(1024, "t_embedder_mlp_0")(self.embed(t))
        c = self.dense(min(self.width, EMBEDDED), "t_embedder_mlp_2")(nn.silu(c))
        caption, length, caption_angles = self.read(cond)
        known = jnp.arange(len(caption)) < length
        caption = self.run("context_blocks", self.refiners, caption, c, caption_angles, known, modulated=False)
        picture = x.reshape(rows, 2, columns, 2, -1).transpose(0, 2, 1, 3, 4).reshape(rows * columns, -1)
        picture = self.dense(self.width, "x_embedder")(picture)
        filled = -len(picture) % MULTIPLE
        pad = self.param("x_pad_token", nn.initializers.zeros_init(), (1, self.width))
        picture = jnp.concatenate([picture, jnp.broadcast_to(pad, (filled, self.width)).astype(picture.dtype)])
        angles = self.angles_of(length + 1, sides, filled, len(caption))
        whole = jnp.ones(len(picture), bool)
        picture = self.run("noise_blocks", self.refiners, picture, c, angles, whole)
        both, angles = jnp.concatenate([picture, caption]), jnp.concatenate([angles, caption_angles])
        both = self.run("layers", self.depth, both, c, angles, jnp.concatenate([whole, known]))
        h = nn.LayerNorm(1e-6, use_bias=False, use_scale=False, dtype=self.dtype)(both[: rows * columns])
        h = h * (1 + self.dense(self.width, "final_layer_adaLN_modulation_1")(nn.silu(c)))
        h = self.dense(4 * self.channels, "final_layer_linear")(h).reshape(rows, columns, 2, 2, self.channels)
        return h.transpose(0, 2, 1, 3, 4).reshape(*x.shape[:2], self.channels)

    def read(self, cond):
        """Return (the caption's tokens, the number of them that take part, their angles)."""
        norm = RMSNorm(self.eps, name="cap_embedder_0")
        context = cond["context"].astype(self.dtype or cond["context"].dtype)
        caption = self.dense(self.width, "cap_embedder_1")(norm(context).astype(context.dtype))
        pad = self.param("cap_pad_token", nn.initializers.zeros_init(), (1, self.width))
        caption = jnp.where(cond["real"][:, None] > 0.5, caption, pad.astype(caption.dtype))
        count = jnp.sum(cond["real"] > 0.5)
        places = np.stack([np.arange(1, len(caption) + 1), *[np.zeros(len(caption), int)] * 2], -1)
        return caption, -(-count // MULTIPLE) * MULTIPLE, jnp.asarray(self.table(places))

    def angles_of(self, first, sides, filled, longest):
        """Return the angles of the patches at (first, row, column), then those of `filled` tokens at (0, 0, 0)."""
        cells = np.stack(np.meshgrid(*(np.arange(n) for n in sides), indexing="ij"), -1).reshape(-1, 2)
        still = self.table(np.concatenate([np.zeros((len(cells), 1), int), cells], -1))
        own = self.axes[0] // 2
        every = self.table(
            np.stack([np.arange(longest + 2 * MULTIPLE), *[np.zeros(longest + 2 * MULTIPLE, int)] * 2], -1)
        )
        leading = jnp.broadcast_to(jnp.asarray(every)[first, :own], (len(cells), own))
        patches = jnp.concatenate([leading, still[:, own:]], -1)
        return jnp.concatenate([patches, jnp.zeros((filled, patches.shape[-1]), patches.dtype)])

    def table(self, places: np.ndarray) -> np.ndarray:
        """Return the angles (N, channels of a head / 2) of positions (N, 3), computed in float64, as float32."""
        parts = [places[:, i : i + 1] * self.theta ** -(np.arange(0, n, 2) / n) for i, n in enumerate(self.axes)]
        return np.concatenate(parts, -1).astype(np.float32)

    def run(self, name, count, h, c, angles, known, modulated=True):
        """Apply `count` equal blocks to h. Tokens see those that are `known` (N,)."""
        cls = nn.remat(Block, prevent_cse=False) if self.remat else Block
        blocks = nn.scan(
            cls,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, nn.broadcast, nn.broadcast),
            length=count,
        )
        seen = jnp.broadcast_to(known, (len(h), len(h)))
        own = blocks(self.heads, int(self.width / 3 * 8), modulated, self.eps, self.dtype, name=name)
        return own(h, c, angles, seen)[0]

    def embed(self, t):
        return timestep_embedding(self.scale * t, 256).astype(self.dtype or jnp.float32)

    def dense(self, features, name):
        return Dense(features, dtype=self.dtype, name=name)
