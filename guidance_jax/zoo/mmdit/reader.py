"""Read SD3's and FLUX's transformers, and T5, by the names of diffusers and of the transformers library."""

import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from guidance_jax.checkpoints.safetensors_file import Renamed
from guidance_jax.checkpoints.tensors import match_params
from guidance_jax.core import Refused
from guidance_jax.untrusted import whole_number
from guidance_jax.zoo.mmdit.network import MMDiT
from guidance_jax.zoo.mmdit.t5 import T5Encoder

# options that configuration files may leave out, with the defaults of diffusers' classes
SHARED = {"attention_head_dim": 64, "num_layers": 18, "num_attention_heads": 18, "joint_attention_dim": 4096}
DEFAULTS: dict[str, dict[str, Any]] = {
    "SD3Transformer2DModel": SHARED
    | {
        "sample_size": 128,
        "patch_size": 2,
        "out_channels": 16,
        "pooled_projection_dim": 2048,
        "pos_embed_max_size": 96,
    },
    "FluxTransformer2DModel": SHARED
    | {"attention_head_dim": 128, "num_layers": 19, "num_attention_heads": 24, "num_single_layers": 38}
    | {"in_channels": 64, "pooled_projection_dim": 768, "guidance_embeds": False, "axes_dims_rope": [16, 56, 56]},
}
WHERE, FAR = "transformer", "relative_attention_max_distance"


def sd3(state: Mapping[str, Any], about: Mapping[str, Any]) -> tuple[MMDiT, dict]:
    """Return (network, parameters) of diffusers' `SD3Transformer2DModel`: SD3 and SD3.5, medium and large.

    Args:
      state: a mapping from tensor names to arrays.
      about: the content of its `config.json`.

    Raises:
      Refused: blocks with a second attention that are not the first ones; a tensor that is missing, left over or of the
        wrong shape.
    """
    dual = sorted(about.get("dual_attention_layers") or ())
    if dual != list(range(len(dual))):
        raise Refused(
            f"the transformer has a second attention in the blocks {dual}; only the first blocks may have one"
        )
    network = MMDiT(
        **widths(about),
        dual=len(dual),
        patch=whole_number(about, "patch_size", WHERE),
        out_channels=whole_number(about, "out_channels", WHERE),
        positions=whole_number(about, "pos_embed_max_size", WHERE),
        qk_norm=has_norms(about.get("qk_norm")),
    )
    names = {name_in(network, k): k for k in state}
    return network, match_params(Renamed(state, names), network, *inputs(network, about, network.out_channels))


def flux(state: Mapping[str, Any], about: Mapping[str, Any]) -> tuple[MMDiT, dict]:
    """Return (network, parameters) of diffusers' `FluxTransformer2DModel`.

    diffusers packs 2 x 2 latents into the channels of one token; this network has patches of 2 x 2 instead.

    Args:
      state: a mapping from tensor names to arrays.
      about: the content of its `config.json`.

    Raises:
      Refused: another packing or other axes; a tensor that is missing, left over or of the wrong shape.
    """
    still, rows, columns = lengths = tuple(about["axes_dims_rope"])
    channels = whole_number(about, "in_channels", WHERE)
    outputs = about.get("out_channels") or channels
    if rows != columns or sum(lengths) != about["attention_head_dim"] or channels % 4 or outputs != channels:
        raise Refused(f"the transformer has axes {lengths} and {channels} channels, which is not supported")
    network = MMDiT(
        **widths(about),
        singles=whole_number(about, "num_single_layers", WHERE),
        patch=2,
        out_channels=channels // 4,
        positions=0,
        still=still,
        qk_norm=True,
        guided=bool(about["guidance_embeds"]),
    )
    named = Renamed(state, {name_in(network, k): k for k in state})
    params = match_params(named, network, *inputs(network, about, channels // 4))
    last = params["params"]["proj_out"]
    for name, value in last.items():  # channels last within a patch
        last[name] = np.moveaxis(value.reshape(*value.shape[:-1], channels // 4, 4), -1, -2).reshape(value.shape)
    return network, params


def widths(about: Mapping[str, Any]) -> dict[str, int]:
    """Return the fields that SD3 and FLUX share: width, heads and depth."""
    heads = whole_number(about, "num_attention_heads", WHERE)
    width = heads * whole_number(about, "attention_head_dim", WHERE)
    return {"width": width, "heads": heads, "depth": whole_number(about, "num_layers", WHERE)}


def has_norms(kind: Any) -> bool:
    if kind not in (None, "rms_norm"):
        raise Refused(f"the transformer has qk_norm = {kind!r}, supported is rms_norm")
    return kind is not None


def name_in(network: MMDiT, key: str) -> str:
    """Translate diffusers' name of a tensor to the name in this network."""
    if (found := re.match(r"(single_)?transformer_blocks\.(\d+)\.(.*)", key)) is not None:
        single, i, rest = found[1], int(found[2]), found[3]
        if single:
            return f"single_blocks.{i}.{rest}"
        if i < network.dual:
            return f"dual_blocks.{i}.{rest}"
        if i == network.depth - 1 and not network.singles:
            return f"last_block.{rest}"
        return f"blocks.{i - network.dual}.{rest}"
    return {"pos_embed.pos_embed": "pos_embed"}.get(key, key.replace("pos_embed.proj", "x_embedder"))


def inputs(network: MMDiT, about: Mapping[str, Any], channels: int) -> tuple:
    """Return the inputs of the network's `init` after the key."""
    side = 2 * network.patch
    cond = {
        "context": jnp.zeros((2, whole_number(about, "joint_attention_dim", WHERE))),
        "vector": jnp.zeros(whole_number(about, "pooled_projection_dim", WHERE)),
    }
    return (
        jnp.zeros((side, side, channels)),
        jnp.zeros(()),
        cond,
        False,
        None,
        jnp.zeros(()) if network.guided else None,
    )


def t5(state: Mapping[str, Any], about: Mapping[str, Any], length: int) -> tuple[T5Encoder, dict]:
    """Return (network, parameters) of the `T5EncoderModel` of the transformers library.

    Args:
      state: a mapping from tensor names to arrays.
      about: the content of its `config.json`.
      length: the number of tokens of a caption.

    Raises:
      Refused: an MLP that is not gated; a tensor that is missing, left over or of the wrong shape.
    """
    if about.get("feed_forward_proj") != "gated-gelu":
        raise Refused(f"a T5 with feed_forward_proj = {about.get('feed_forward_proj')!r} is not supported")
    where = "text_encoder"
    network = T5Encoder(
        vocabulary=whole_number(about, "vocab_size", where),
        length=length,
        width=whole_number(about, "d_model", where),
        depth=whole_number(about, "num_layers", where),
        heads=whole_number(about, "num_heads", where),
        head_width=whole_number(about, "d_kv", where),
        mlp_width=whole_number(about, "d_ff", where),
        buckets=whole_number(about, "relative_attention_num_buckets", where),
        farthest=whole_number({FAR: 128, **about}, FAR, where),
    )
    bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    names = {k.removeprefix("encoder.").replace("block.", "blocks.", 1): k for k in state if k != bias}
    if "shared.weight" in state:
        names.pop("embed_tokens.weight", None)  # a copy of it
    elif "embed_tokens.weight" in names:
        names["shared.weight"] = names.pop("embed_tokens.weight")
    if bias in state:
        names["relative_attention_bias.weight"] = bias
    return network, match_params(Renamed(state, names), network, jnp.zeros(2, int))
