"""Transformers in which pictures and captions attend to each other: Stable Diffusion 3 and 3.5, FLUX.1 in one module.

    c = MLP([cos, sin](1000 t)) + MLP(pooled caption)  (+ MLP([cos, sin](1000 scale)) of FLUX)
    q, k, v of picture and caption, each by weights of its own; one attention over both; then an MLP each

Esser et al. 2024 (arXiv 2403.03206). SD3.5-medium's first blocks have a second attention of the picture alone; its
queries and keys are normalised. FLUX (Black Forest Labs 2024) has rotary positions. Its joint blocks are followed by
single blocks, in which picture and caption share the weights, and the MLP runs in parallel to the attention.
Sub-modules carry diffusers' names; equal blocks are one module run by `nn.scan`.
"""

from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from guidance_jax.core import Refused
from guidance_jax.guidance.attention import ReadsCaptions
from guidance_jax.zoo.layers import (
    Dense,
    RMSNorm,
    attend,
    patches,
    perturbed_attention,
    rotate,
    share_out,
    timestep_embedding,
)


class Block(nn.Module):
    """The base of joint and single blocks.

    Attributes:
      heads: the number of attention heads.
      sides: the sides of the picture, in patches.
      qk_norm: whether queries and keys are normalised.
      still: the number of channels of a head that do not rotate with the position; None without rotary positions.
      dtype: the dtype of the computation.
    """

    heads: int
    sides: tuple[int, int]
    qk_norm: bool = False
    still: int | None = None
    dtype: Any = None

    def dense(self, features: int, name: str) -> Any:
        return Dense(features, dtype=self.dtype, name=name)

    def norm(self, h: Any) -> Any:
        return nn.LayerNorm(1e-6, use_bias=False, use_scale=False, dtype=self.dtype)(h)

    def modulation(self, c: Any, name: str, parts: int, width: int) -> Any:
        """Return `parts` vectors (width,) made from the embedding c."""
        return jnp.split(self.dense(parts * width, name)(nn.silu(c)), parts)

    def project(self, h: Any, names: tuple[str, ...]) -> tuple[Any, Any, Any]:
        """Return q, k, v (..., heads, channels) of h (..., width); `names` are those of q, k, v and of two norms."""
        q, k, v = (self.dense(h.shape[-1], name)(h).reshape(*h.shape[:-1], self.heads, -1) for name in names[:3])
        if self.qk_norm:
            q, k = (RMSNorm(name=name)(a).astype(a.dtype) for a, name in zip((q, k), names[3:], strict=True))
        return q, k, v

    def turn(self, *of_picture: Any) -> Iterator[Any]:
        """Apply rotary positions to arrays of the picture; captions have none."""
        for a in of_picture:
            at = self.still
            yield a if at is None else jnp.concatenate([a[..., :at], rotate(a[..., at:], self.sides)], -1)

    def mlp(self, h: Any, name: str) -> Any:
        wide = nn.gelu(self.dense(4 * h.shape[-1], f"{name}_net_0_proj")(h), approximate=True)
        return self.dense(h.shape[-1], f"{name}_net_2")(wide)

    def read(self, picture: Any, caption: Any, how: Any, away: Any) -> tuple[Any, Any]:
        """Return the joint attention of the picture (N, width) and of the captions (streams, L, width).

        `picture` and `caption` are (q, k, v). `how` is a `Perturbation` or None. `away` guides the attention away from
        the second caption; None for one caption.
        """
        count = len(picture[0])

        def joint(q, k, v):
            return attend(*(jnp.concatenate(pair) for pair in zip(picture, (q, k, v), strict=True)))

        streams = jax.vmap(joint)(*caption)
        streams = streams.reshape(*streams.shape[:2], -1)
        found = streams[0, :count]
        if how is not None:
            q, k, v = (jnp.concatenate([a, b[0]]) for a, b in zip(picture, caption, strict=True))
            found = perturbed_attention(q[:count], k, v, v[:count], self.sides, how).reshape(found.shape)
        if away is not None:
            found = away.combine(found, streams[1, :count]).astype(found.dtype)
        return found, streams[:, count:]


class JointBlock(Block):
    """A block on (picture (N, width), captions (streams, L, width)) with separate weights for both.

    Attributes:
      dual: whether the picture has a second attention to itself alone.
      last: whether the block updates the picture alone, as the last block of SD3.
    """

    dual: bool = False
    last: bool = False

    @nn.compact
    def __call__(self, carry, c, how, away):
        picture, captions = before = carry
        width = picture.shape[-1]
        parts = self.modulation(c, "norm1_linear", 9 if self.dual else 6, width)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = parts[:6]
        norm = self.norm(picture)
        q, k, v = self.project(norm * (1 + scale) + shift, QKV)
        own = *self.turn(q, k), v
        if self.last:
            text_scale, text_shift = self.modulation(c, "norm1_context_linear", 2, width)
        else:
            parts_of_text = self.modulation(c, "norm1_context_linear", 6, width)
            text_shift, text_scale, text_gate, text_mlp_shift, text_mlp_scale, text_mlp_gate = parts_of_text
        asked = self.project(self.norm(captions) * (1 + text_scale) + text_shift, ADDED)
        read, read_of_text = self.read(own, asked, how, away)
        picture = picture + gate * self.dense(width, "attn_to_out_0")(read)
        if self.dual:
            shift, scale, gate = parts[6:]
            q, k, v = self.project(norm * (1 + scale) + shift, DUAL)
            out = perturbed_attention(q, k, v, v, self.sides, how).reshape(picture.shape)
            picture = picture + gate * self.dense(width, "attn2_to_out_0")(out)
        h = self.norm(picture) * (1 + mlp_scale) + mlp_shift
        picture = picture + mlp_gate * self.mlp(h, "ff")
        if not self.last:
            captions = captions + text_gate * self.dense(width, "attn_to_add_out")(read_of_text)
            h = self.norm(captions) * (1 + text_mlp_scale) + text_mlp_shift
            captions = captions + text_mlp_gate * self.mlp(h, "ff_context")
        return leave_out(before, (picture, captions), how), None


class SingleBlock(Block):
    """A later block of FLUX: picture and captions share the weights, the MLP runs in parallel to the attention."""

    @nn.compact
    def __call__(self, carry, c, how, away):
        picture, captions = carry
        width = picture.shape[-1]
        shift, scale, gate = self.modulation(c, "norm_linear", 3, width)
        streams, length, _ = captions.shape
        both = jnp.concatenate([picture, captions.reshape(-1, width)])
        h = self.norm(both) * (1 + scale) + shift
        count = len(picture)
        q, k, v = self.project(h, QKV)
        own = *self.turn(q[:count], k[:count]), v[:count]
        asked = [a[count:].reshape(streams, length, *a.shape[1:]) for a in (q, k, v)]
        read, read_of_text = self.read(own, asked, how, away)
        read = jnp.concatenate([read, read_of_text.reshape(-1, width)])
        wide = nn.gelu(self.dense(4 * width, "proj_mlp")(h), approximate=True)
        both = both + gate * self.dense(width, "proj_out")(jnp.concatenate([read, wide], -1))
        after = both[:count], both[count:].reshape(captions.shape)
        return leave_out(carry, after, how), None


def names_of(attention: str, *parts: str) -> tuple[str, ...]:
    return tuple(f"{attention}_{part}" for part in parts)


QKV = names_of("attn", "to_q", "to_k", "to_v", "norm_q", "norm_k")
DUAL = names_of("attn2", "to_q", "to_k", "to_v", "norm_q", "norm_k")
ADDED = names_of("attn", "add_q_proj", "add_k_proj", "add_v_proj", "norm_added_q", "norm_added_k")


def leave_out(before: Any, after: Any, how: Any) -> Any:
    """Return the output of a block, of which the perturbation `how` leaves out the share `how.skip`."""
    if how is None:
        return after
    return jax.tree.map(lambda a, b: b + jnp.asarray(how.skip, b.dtype) * (a - b), before, after)


class MMDiT(ReadsCaptions, nn.Module):
    """`apply(params, x (H, W, C), t, cond) -> (H, W, out_channels)`, for one sample; the defaults are SD3's.

    `cond` is a dict: `context` (L, context width), the states of the text encoders, and `vector` (K,), the pooled ones.

    Attributes:
      width: the number of hidden channels.
      heads: the number of attention heads.
      patch: the side of a patch, in latents.
      out_channels: the number of channels of the output.
      depth: the number of joint blocks.
      dual: the number of joint blocks with a second attention; they are the first ones.
      singles: the number of single blocks after the joint ones. With 0 the last joint block updates the picture alone.
      positions: the side, in patches, of the table of positions, whose middle is used; 0 for rotary positions.
      still: the number of channels of a head that do not rotate, with rotary positions.
      qk_norm: whether queries and keys are normalised.
      guided: whether the scale of guidance is an input (FLUX.1-dev).
      perturbed: the blocks that a `Perturbation` makes worse, counted over joint and single blocks; empty for the
        middle third.
      dtype: the dtype of the computation; None for that of the parameters.
      remat: whether blocks are recomputed in the backward pass, which saves memory.

    Raises:
      Refused: samples that patches do not tile or that are larger than the table; a condition of another kind; a scale
        for a network that is not `guided`, or no scale for one that is.
    """

    width: int = 1536
    heads: int = 24
    depth: int = 24
    dual: int = 0
    singles: int = 0
    patch: int = 2
    out_channels: int = 16
    positions: int = 96
    still: int = 0
    qk_norm: bool = False
    guided: bool = False
    perturbed: tuple[int, ...] = ()
    dtype: Any = None
    remat: bool = False

    @nn.compact
    def __call__(self, x, t, cond, train=False, perturbation=None, scale=None):
        sides = x.shape[0] // self.patch, x.shape[1] // self.patch
        if (sides[0] * self.patch, sides[1] * self.patch) != x.shape[:2]:
            raise Refused(f"patches of {self.patch} latents do not tile samples of shape {x.shape}")
        if not isinstance(cond, dict) or set(cond) != {"context", "vector"}:
            got = ", ".join(cond) if isinstance(cond, dict) else type(cond).__name__
            raise Refused(f"the network is conditioned on a dict of context, vector, got {got}")
        if (scale is not None) != self.guided:
            told = "the guidance scale as an input (set it with Learned)" if self.guided else "no scale as an input"
            raise Refused(f"the network has {told}, got scale={scale}")
        away = None if perturbation is None else perturbation.away
        contexts = [cond["context"]] if away is None else [cond["context"], away.context]
        captions = self.dense(self.width, "context_embedder")(jnp.stack([c.astype(x.dtype) for c in contexts]))
        h = self.dense(self.width, "x_embedder")(patches(x, self.patch))
        if self.positions:
            h = h + self.table(sides).astype(h.dtype)
        c = self.embed(1000 * t, "timestep") + self.mlp(cond["vector"], "text")
        if self.guided:
            c = c + self.embed(1000 * jnp.asarray(scale, x.dtype), "guidance")
        carry = h, captions
        for name, count, made in self.segments(sides):
            carry = self.run(name, count, made, carry, c, self.shares(perturbation, name), away)
        scale, shift = jnp.split(self.dense(2 * self.width, "norm_out_linear")(nn.silu(c)), 2)
        h = nn.LayerNorm(1e-6, use_bias=False, use_scale=False, dtype=self.dtype)(carry[0]) * (1 + scale) + shift
        h = self.dense(self.patch**2 * self.out_channels, "proj_out")(h)
        h = h.reshape(*sides, self.patch, self.patch, self.out_channels)
        return jnp.moveaxis(h, 2, 1).reshape(*x.shape[:2], self.out_channels)

    def counts(self) -> dict[str, int]:
        """Return the number of blocks of each name, in order."""
        last = int(self.singles == 0)
        counts = {"dual_blocks": self.dual, "blocks": self.depth - self.dual - last, "last_block": last}
        return {name: n for name, n in (counts | {"single_blocks": self.singles}).items() if n}

    def segments(self, sides):
        """Yield (name, number of blocks, (class, fields)) of each run of equal blocks."""
        shared = {
            "heads": self.heads,
            "sides": sides,
            "qk_norm": self.qk_norm,
            "still": None if self.positions else self.still,
            "dtype": self.dtype,
        }
        kinds: dict[str, tuple[type[Block], dict[str, bool]]] = {
            "dual_blocks": (JointBlock, {"dual": True}),
            "blocks": (JointBlock, {}),
            "last_block": (JointBlock, {"last": True}),
            "single_blocks": (SingleBlock, {}),
        }
        for name, count in self.counts().items():
            cls, fields = kinds[name]
            yield name, count, (cls, shared | fields)

    def run(self, name, count, made, carry, c, how, away):
        """Apply `count` equal blocks to `carry`."""
        cls, fields = made
        cls = nn.remat(cls, prevent_cse=False) if self.remat else cls
        if name == "last_block":
            how = None if how is None else jax.tree.map(lambda a: a[0], how)
            return cls(**fields, name=name)(carry, c, how, away)[0]
        blocks = nn.scan(
            cls,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, nn.broadcast if how is None else 0, nn.broadcast),
            length=count,
        )
        return blocks(**fields, name=name)(carry, c, how, away)[0]

    def shares(self, perturbation, name):
        """Return a perturbation for each block of a run, 0 for blocks that are not perturbed."""
        if perturbation is None or not perturbation.worsens:
            return None
        every = share_out(perturbation._replace(away=None), self.perturbed, self.depth + self.singles)
        counts = self.counts()
        start = sum(list(counts.values())[: list(counts).index(name)])
        return jax.tree.map(lambda a: a[start : start + counts[name]], every)

    def table(self, sides):
        """Return the middle of the table of positions, (N, width)."""
        table = self.param("pos_embed", nn.initializers.normal(0.02), (self.positions**2, self.width))
        if max(sides) > self.positions:
            raise Refused(f"the table of positions has {self.positions} patches on a side, the sample has {sides}")
        table = table.reshape(self.positions, self.positions, self.width)
        rows, columns = ((self.positions - n) // 2 for n in sides)
        return table[rows : rows + sides[0], columns : columns + sides[1]].reshape(-1, self.width)

    def embed(self, number, name):
        return self.mlp(timestep_embedding(number, 256).astype(self.dtype or jnp.float32), name)

    def mlp(self, vector, name):
        """Apply the two layers of an embedding."""
        path = f"time_text_embed_{name}_embedder_linear"
        return self.dense(self.width, f"{path}_2")(nn.silu(self.dense(self.width, f"{path}_1")(vector)))

    def dense(self, features, name):
        return Dense(features, dtype=self.dtype, name=name)
