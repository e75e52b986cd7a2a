"""Read Stable Diffusion's U-Net, autoencoder and text encoders, by the names of single files and of diffusers.

The networks here have the names of the published single files; diffusers' names are translated to them.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from guidance_jax.checkpoints.safetensors_file import Renamed, shapes_of
from guidance_jax.checkpoints.tensors import match_params
from guidance_jax.core import Refused
from guidance_jax.untrusted import whole_number
from guidance_jax.zoo.guided_diffusion import architecture
from guidance_jax.zoo.stable_diffusion.clip import CLIPText
from guidance_jax.zoo.stable_diffusion.unet import StableDiffusionUNet
from guidance_jax.zoo.stable_diffusion.vae import AutoencoderKL
from guidance_jax.zoo.state_dict import shape_of

IMAGE = (4,)  # channels of the input latents; inpainting models have 9
NAMES = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
ATTENTION |= {"query": "q", "key": "k", "value": "v", "proj_attn": "proj_out"}  # diffusers before 0.17


def unet_name(key: str, blocks: int, attended: tuple[bool, ...]) -> str:
    """Translate diffusers' name of a tensor of the U-Net to the name in single files.

    Args:
      key: diffusers' name.
      blocks: the number of residual blocks per level.
      attended: for each level of the decoder, in its order, whether it has attention.
    """
    found = re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", key)
    if found is None:
        for old, new in NAMES.items():
            if key.startswith(f"{old}."):
                rest = key.removeprefix(f"{old}.")
                return f"{new}.{resnet_name(rest) if 'resnets' in old else rest}"
        return key
    half, (level, part, i, rest) = found[1], (int(found[2]), found[3], int(found[4]), found[5])
    group = "input_blocks" if half == "down" else "output_blocks"
    index = level * (blocks + 1) + (half == "down")
    if part == "downsamplers":
        return f"{group}.{index + blocks}.0.op.{rest.removeprefix('conv.')}"
    if part == "upsamplers":
        return f"{group}.{index + blocks}.{1 + attended[level]}.{rest}"
    return f"{group}.{index + i}.{int(part == 'attentions')}.{resnet_name(rest) if part == 'resnets' else rest}"


def resnet_name(rest: str) -> str:
    name, _, leaf = rest.rpartition(".")
    return f"{RESNET.get(name, name)}.{leaf}"


def unet_of_diffusers(state: Mapping[str, Any], about: Mapping[str, Any]) -> tuple[StableDiffusionUNet, dict]:
    """Return (network, parameters) of diffusers' `UNet2DConditionModel`.

    Args:
      state: a mapping from tensor names to arrays.
      about: the content of its `config.json`.

    Raises:
      Refused: a tensor that is missing, left over or of the wrong shape.
    """
    named = Renamed(state, {unet_name_of(about, k): k for k in state})
    return unet(named, heads(about), whole_number(about, "norm_num_groups", "unet"))


def unet_name_of(about: Mapping[str, Any], key: str) -> str:
    """Return `unet_name` of a tensor in a U-Net whose `config.json` is `about`."""
    attended = tuple(kind.startswith("CrossAttn") for kind in about["up_block_types"])
    return unet_name(key, whole_number(about, "layers_per_block", "unet"), attended)


def heads(about: Mapping[str, Any]) -> dict[str, int]:
    """Return the field about heads. `attention_head_dim` of diffusers' U-Net is a number of heads, not of channels."""
    widths = about["block_out_channels"]
    counts = about["attention_head_dim"]
    counts = [counts] * len(widths) if isinstance(counts, int) else list(counts)
    if len(set(counts)) == 1:
        return {"num_heads": counts[0]}
    if len({w / n for w, n in zip(widths, counts, strict=True)}) != 1:
        raise Refused(
            f"attention_head_dim = {counts} for levels of widths {widths} is not supported: heads differ in width"
        )
    return {"num_head_channels": widths[0] // counts[0]}


def unet(state: Mapping[str, Any], heads: Mapping[str, int], groups: int = 32) -> tuple[StableDiffusionUNet, dict]:
    """Return (network, parameters) of Stable Diffusion's U-Net by the names of single files, without their prefix.

    Args:
      state: a mapping from tensor names to arrays.
      heads: a dictionary with `num_heads` or `num_head_channels`.
      groups: the number of groups of the norms.

    Raises:
      Refused: a tensor that is missing, left over or of the wrong shape.
    """
    shapes = shapes_of(state)
    fields, channels = architecture(shapes, IMAGE)
    keys = [k for k in shapes if k.endswith("attn2.to_k.weight")]
    if not keys:
        raise Refused("not a U-Net of Stable Diffusion: it has no attention to a text")
    width = shapes[keys[0]][1]
    levels = len(fields["channel_mult"])
    depth = [0] * levels
    for k in keys:
        if found := re.match(r"input_blocks\.(\d+)\.1\.transformer_blocks\.(\d+)\.", k):
            level = (int(found[1]) - 1) // (fields["num_res_blocks"] + 1)
            depth[level] = max(depth[level], int(found[2]) + 1)
    middle = 1 + max(int(k.split(".")[3]) for k in keys if k.startswith("middle_block"))
    depth[-1] = depth[-1] or middle
    network = StableDiffusionUNet(
        **fields, **heads, transformer_depth=tuple(depth), added="label_emb.0.0.weight" in shapes, groups=groups
    )
    cond = {"context": jnp.zeros((77, width))}
    if network.added:
        cond["vector"] = jnp.zeros(shapes["label_emb.0.0.weight"][1])
    side = 2 ** (levels - 1) * 2
    return network, match_params(state, network, jnp.zeros((side, side, channels)), jnp.zeros(()), cond)


def autoencoder(state: Mapping[str, Any], groups: int = 32) -> tuple[AutoencoderKL, dict]:
    """Return (network, parameters) of the autoencoder by the names of single files, without their prefix.

    Args:
      state: a mapping from tensor names to arrays.
      groups: the number of groups of the norms.

    Raises:
      Refused: a tensor that is missing, left over or of the wrong shape.
    """
    shapes = shapes_of(state)
    levels = len({k.split(".")[2] for k in shapes if k.startswith("encoder.down.")})
    channels = tuple(shape_of(shapes, f"encoder.down.{i}.block.0.conv2.weight", 4)[0] for i in range(levels))
    network = AutoencoderKL(
        latent_channels=shape_of(shapes, "decoder.conv_in.weight", 4)[1] if levels else 0,
        channels=channels,
        blocks=len({k.split(".")[4] for k in shapes if k.startswith("encoder.down.0.block.")}),
        groups=groups,
        quant="quant_conv.weight" in shapes,
        middle_attention="encoder.mid.attn_1.q.weight" in shapes,
        image_channels=shape_of(shapes, "decoder.conv_out.weight", 4)[0],
    )
    side = 2 ** (levels + 1)
    return network, match_params(state, network, jnp.zeros((side, side, network.image_channels)))


def autoencoder_name(key: str, levels: int) -> str:
    """Translate diffusers' name of a tensor of the autoencoder to the name in single files."""
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    key = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", key)
    key = re.sub(r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", key)
    key = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", key)
    if (found := re.match(r"(\w+)\.mid_block\.attentions\.0\.(.+)\.(\w+)$", key)) is not None:
        key = f"{found[1]}.mid.attn_1.{ATTENTION.get(found[2], found[2])}.{found[3]}"
    return key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")


def clip_text(state: Mapping[str, Any], about: Mapping[str, Any], skip: int) -> tuple[CLIPText, dict]:
    """Return (network, parameters) of CLIP's text encoder by the names of the transformers library.

    Args:
      state: a mapping from tensor names to arrays.
      about: the content of its `config.json`.
      skip: as in `CLIPText`.

    Raises:
      Refused: an activation that is not supported; a tensor that is missing, left over or of the wrong shape.
    """
    state = Renamed(state, {k.removeprefix("text_model."): k for k in state if not k.endswith("position_ids")})
    if about["hidden_act"] not in ("quick_gelu", "gelu"):
        raise Refused(f"a text encoder with hidden_act = {about['hidden_act']!r} is not supported")
    projection = shapes_of(state).get("text_projection.weight")
    end = about.get("eos_token_id")
    network = CLIPText(
        vocabulary=whole_number(about, "vocab_size", "text_encoder"),
        length=whole_number(about, "max_position_embeddings", "text_encoder"),
        width=whole_number(about, "hidden_size", "text_encoder"),
        depth=whole_number(about, "num_hidden_layers", "text_encoder"),
        heads=whole_number(about, "num_attention_heads", "text_encoder"),
        mlp_width=whole_number(about, "intermediate_size", "text_encoder"),
        activation=str(about["hidden_act"]),
        projection=0 if projection is None else projection[0],
        skip=skip,
        end=None
        if end is None or end == 2
        else int(end),  # 2 is a mistake of old files: the largest token ends the text
    )
    return network, match_params(state, network, jnp.zeros(network.length, int))
