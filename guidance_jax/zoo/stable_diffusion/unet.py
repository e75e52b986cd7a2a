"""The U-Net of Stable Diffusion 1, 2 and XL (Rombach et al. 2022, arXiv 2112.10752; Podell et al. 2023, 2307.01952).

It is ADM's U-Net with transformer blocks in place of its attention. In a block the pixels attend to themselves, then to
a context (the states of a text encoder); an MLP with a gated GELU follows. Sub-modules carry the names of the published
single files; the blocks of one transformer are one module run by `nn.scan`.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from guidance_jax.core import Refused
from guidance_jax.guidance.attention import ReadsCaptions
from guidance_jax.zoo.layers import Dense, GroupNorm, attend, perturbed_attention
from guidance_jax.zoo.unet import UNet


class StableDiffusionUNet(ReadsCaptions, UNet):
    """`apply(params, x (H, W, C), t, cond) -> (H, W, out_channels)`, for one sample.

    `cond` is a dict: `context` (L, width), the states of the text encoders; and `vector` (K,), the pooled text and the
    embedded sizes, for a network with `added`. `perturb` changes only the middle block, which is PAG's default;
    `guide_attention` changes every block.

    Attributes:
      transformer_depth: the number of transformer blocks in an attention of each level; the middle has that of the last
        level.
      added: whether a vector is added to the time embedding (XL).
    """

    use_scale_shift_norm: bool = False
    resblock_updown: bool = False
    transformer_depth: tuple[int, ...] = (1, 1, 1, 1)
    added: bool = False

    @nn.compact
    def __call__(self, x, t, cond, train=False, perturbation=None, control=None):
        return self.unet(x, self.embed_condition(t, cond), train, perturbation, cond["context"], control)

    def embed_condition(self, t, cond):
        """Return the embedding of the time, plus that of the vector if there is one."""
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
        away = None if perturbation is None else perturbation.away
        perturbation = perturbation if self.perturbed and perturbation is not None and perturbation.worsens else None
        h, _ = blocks(self.heads, x.shape[:2], self.dtype, name="transformer_blocks")(h, context, perturbation, away)
        return x + Dense(h.shape[-1], dtype=self.dtype, name="proj_out")(h).reshape(x.shape)


class Block(nn.Module):
    """Self-attention, attention to the context, and a gated MLP, each on a layer norm of its input and added to it."""

    heads: int
    sides: tuple[int, int]
    dtype: Any = None

    @nn.compact
    def __call__(self, h, context, perturbation, away):
        q, k, v = self.project(norm := self.norm(h, "norm1"), norm, "attn1")
        out = perturbed_attention(q, k, v, v, self.sides, perturbation)
        h = h + self.dense(h.shape[-1], "attn1_to_out_0")(out.reshape(h.shape))
        both = context if away is None else jnp.concatenate([context, away.context.astype(context.dtype)])
        q, k, v = self.project(self.norm(h, "norm2"), both, "attn2")
        end = len(context)
        out = attend(q, k[:end], v[:end]).reshape(h.shape)
        if away is not None:
            out = away.combine(out, attend(q, k[end:], v[end:]).reshape(h.shape)).astype(out.dtype)
        h = h + self.dense(h.shape[-1], "attn2_to_out_0")(out)
        wide, gate = jnp.split(self.dense(8 * h.shape[-1], "ff_net_0_proj")(self.norm(h, "norm3")), 2, -1)
        return h + self.dense(h.shape[-1], "ff_net_2")(wide * nn.gelu(gate, approximate=False)), None

    def project(self, h, context, name):
        """Return queries of `h`, keys and values of `context`, each (L, heads, channels)."""
        sources = {"to_q": h, "to_k": context, "to_v": context}
        return (
            self.dense(h.shape[-1], f"{name}_{part}", use_bias=False)(a).reshape(len(a), self.heads, -1)
            for part, a in sources.items()
        )

    def dense(self, features, name, **options):
        return Dense(features, dtype=self.dtype, name=name, **options)

    def norm(self, h, name):
        return nn.LayerNorm(1e-5, dtype=self.dtype, name=name)(h)
