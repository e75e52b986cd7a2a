"""Stable Diffusion's networks: U-Net, autoencoder and text encoders, by the names of single files and of diffusers.

The networks here have the names of the published single files; diffusers' are translated to them.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from guidance_jax.checkpoints.adm import architecture, shape_of
from guidance_jax.checkpoints.config import config
from guidance_jax.checkpoints.pipeline import Parts
from guidance_jax.checkpoints.safetensors_file import Renamed, shapes_of
from guidance_jax.checkpoints.scheduler import PREDICTIONS
from guidance_jax.checkpoints.tensors import fitted
from guidance_jax.core import Refused
from guidance_jax.models.domain import Domain
from guidance_jax.networks.autoencoder import AutoencoderKL
from guidance_jax.networks.clip_text import CLIPText
from guidance_jax.networks.sd_unet import StableDiffusionUNet
from guidance_jax.schedules import ScaledLinearBetas

UNET, AUTOENCODER = "model.diffusion_model.", "first_stage_model."  # prefixes in a single file
IMAGE = (4,)  # channels of the latents that go in; inpainting models have 9
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
    """diffusers' name of a tensor of the U-Net in the single file's.

    Args:
      key: the name.
      blocks: residual blocks of a level.
      attended: whether the levels of the decoder have attention, in its order.
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
    """diffusers' `UNet2DConditionModel`.

    Args:
      state: name -> array.
      about: its `config.json`.

    Raises:
      Refused: a tensor that is missing, left over or of the wrong shape.
    """
    blocks = int(about["layers_per_block"])
    attended = tuple(kind.startswith("CrossAttn") for kind in about["up_block_types"])
    named = Renamed(state, {unet_name(k, blocks, attended): k for k in state})
    return unet(named, heads(about), int(about["norm_num_groups"]))


def heads(about: Mapping[str, Any]) -> dict[str, int]:
    """Heads of the attentions: `attention_head_dim` of diffusers' U-Net is their number, not their channels."""
    widths = about["block_out_channels"]
    counts = about["attention_head_dim"]
    counts = [counts] * len(widths) if isinstance(counts, int) else list(counts)
    if len(set(counts)) == 1:
        return {"num_heads": counts[0]}
    if len({w / n for w, n in zip(widths, counts, strict=True)}) != 1:
        raise Refused(f"attention_head_dim = {counts} of levels {widths} wide is not supported: heads differ in width")
    return {"num_head_channels": widths[0] // counts[0]}


def unet(state: Mapping[str, Any], heads: Mapping[str, int], groups: int = 32) -> tuple[StableDiffusionUNet, dict]:
    """The U-Net of Stable Diffusion by the names of single files, without their prefix.

    Args:
      state: name -> array.
      heads: `num_heads` or `num_head_channels`.
      groups: of the norms.

    Raises:
      Refused: a tensor that is missing, left over or of the wrong shape.
    """
    shapes = shapes_of(state)
    fields, channels = architecture(shapes, IMAGE)
    keys = [k for k in shapes if k.endswith("attn2.to_k.weight")]
    if not keys:
        raise Refused("no U-Net of Stable Diffusion: nothing in it attends to a text")
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
    return network, fitted(state, network, jnp.zeros((side, side, channels)), jnp.zeros(()), cond)


def autoencoder(state: Mapping[str, Any], groups: int = 32) -> tuple[AutoencoderKL, dict]:
    """The autoencoder by the names of single files, without their prefix.

    Args:
      state: name -> array.
      groups: of the norms.

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
    return network, fitted(state, network, jnp.zeros((side, side, network.image_channels)))


def autoencoder_name(key: str, levels: int) -> str:
    """diffusers' name of a tensor of the autoencoder in the single file's."""
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    key = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", key)
    key = re.sub(r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", key)
    key = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", key)
    if (found := re.match(r"(\w+)\.mid_block\.attentions\.0\.(.+)\.(\w+)$", key)) is not None:
        key = f"{found[1]}.mid.attn_1.{ATTENTION.get(found[2], found[2])}.{found[3]}"
    return key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")


def clip_text(state: Mapping[str, Any], about: Mapping[str, Any], skip: int) -> tuple[CLIPText, dict]:
    """CLIP's text encoder by the names of the transformers library.

    Args:
      state: name -> array.
      about: its `config.json`.
      skip: as in `CLIPText`.

    Raises:
      Refused: an activation that is not known, a tensor that is missing, left over or of the wrong shape.
    """
    state = Renamed(state, {k.removeprefix("text_model."): k for k in state if not k.endswith("position_ids")})
    if about["hidden_act"] not in ("quick_gelu", "gelu"):
        raise Refused(f"a text encoder with hidden_act = {about['hidden_act']!r} is not supported")
    projection = shapes_of(state).get("text_projection.weight")
    end = about.get("eos_token_id")
    network = CLIPText(
        vocabulary=int(about["vocab_size"]),
        length=int(about["max_position_embeddings"]),
        width=int(about["hidden_size"]),
        depth=int(about["num_hidden_layers"]),
        heads=int(about["num_attention_heads"]),
        mlp_width=int(about["intermediate_size"]),
        activation=str(about["hidden_act"]),
        projection=0 if projection is None else projection[0],
        skip=skip,
        end=None
        if end is None or end == 2
        else int(end),  # 2 is a mistake of old files: the largest token ends the text
    )
    return network, fitted(state, network, jnp.zeros(network.length, int))


@dataclasses.dataclass(frozen=True)
class Release:
    """What a single file does not say, by the width of its context."""

    side: int  # of the latents
    heads: tuple[str, int]
    texts: tuple[tuple[str, int, int | None], ...]  # prefix of a text encoder, states it skips, layers it keeps


BY_CHANNELS = ("num_head_channels", 64)
V1, V2 = "cond_stage_model.transformer.", "cond_stage_model.model."
XL = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
RELEASES = {
    768: Release(64, ("num_heads", 8), ((V1, 0, None),)),
    1024: Release(64, BY_CHANNELS, ((V2, 0, -1),)),  # the states before the last layer, normed
    2048: Release(128, BY_CHANNELS, tuple((prefix, 1, None) for prefix in XL)),
}
OPEN_CLIP = {
    "positional_embedding": "embeddings.position_embedding.weight",
    "token_embedding.": "embeddings.token_embedding.",
    "transformer.resblocks.": "encoder.layers.",
    "ln_final.": "final_layer_norm.",
    ".ln_1.": ".layer_norm1.",
    ".ln_2.": ".layer_norm2.",
    ".attn.out_proj.": ".self_attn.out_proj.",
    ".mlp.c_fc.": ".mlp.fc1.",
    ".mlp.c_proj.": ".mlp.fc2.",
}


def is_single_file(state: Mapping[str, Any]) -> bool:
    return any(k.startswith(UNET) for k in state)


def single_file(
    state: Mapping[str, Any], prediction: str | None = None, side: int | None = None, groups: int = 32
) -> Parts:
    """A single file of Stable Diffusion 1, 2 or XL: U-Net, autoencoder and text encoders; tokenizers it has none.

    Args:
      state: name -> array.
      prediction: "epsilon" or "v_prediction"; needed for version 2, which has been trained either way.
      side: of the pictures; by default 512, 768 for version 2 with v, 1024 for XL.
      groups: of the norms.

    Raises:
      Refused: a prediction that is not known, a tensor that is missing, left over or of the wrong shape.
    """
    keys = [k for k in state if k.startswith(UNET) and k.endswith("attn2.to_k.weight")]
    width = shapes_of(state)[keys[0]][1] if keys else None
    if width not in RELEASES:
        raise Refused(f"a U-Net with a context {width} wide is none of Stable Diffusion 1, 2 and XL")
    if prediction is None and width == 1024:
        raise Refused("Stable Diffusion 2 predicts noise or v: say prediction epsilon or v_prediction")
    meaning = PREDICTIONS.get(prediction or "epsilon")
    if meaning is None:
        raise Refused(f"prediction is one of {', '.join(PREDICTIONS)}, got {prediction!r}")
    release = RELEASES[width]
    network, params = unet(under(state, UNET), dict([release.heads]), groups)
    latent = side // 8 if side else 96 if prediction == "v_prediction" and width == 1024 else release.side
    context: tuple = (("context", (77, width)),)
    found = Parts({"grid": {"name": "spaced", "spacing": "leading", "offset": 1, "clean": width == 2048}})
    if network.added:
        context += (("vector", (shapes_of(state)[f"{UNET}label_emb.0.0.weight"][1],)),)
        found.pipeline |= {"sizes": 256, "zero_empty": True}
    domain = Domain((latent, latent, 4), ScaledLinearBetas(1000), context=context)
    found.parts["denoiser"] = config(network, domain, meaning), params
    network, params = autoencoder(under(state, AUTOENCODER), groups)
    std = 1 / (0.13025 if width == 2048 else 0.18215)
    found.parts["autoencoder"] = config(network, None, latents={"mean": 0.0, "std": std}), params
    for i, (prefix, skip, layers) in enumerate(release.texts):
        own = under(state, prefix)
        text = from_open_clip(own, layers) if "positional_embedding" in own else own
        network, params = clip_text(text, told(text, "gelu" if text is not own else "quick_gelu"), skip)
        found.parts["text" + f"_{i + 1}" * (i > 0)] = config(network, None), params
    return found


def under(state: Mapping[str, Any], prefix: str) -> Renamed:
    """The tensors whose names begin with `prefix`, without it."""
    return Renamed(state, {k.removeprefix(prefix): k for k in state if k.startswith(prefix)})


def from_open_clip(state: Mapping[str, Any], layers: int | None) -> dict[str, Any]:
    """OpenCLIP's text encoder by the names of the transformers library; `layers` -1 leaves the last one out."""
    depth = len({k.split(".")[2] for k in state if k.startswith("transformer.resblocks.")})
    kept = depth if layers is None else depth + layers
    found = {}
    for key in state:
        if key in ("logit_scale", "attn_mask") or (key == "text_projection" and layers is not None):
            continue
        if key.startswith("transformer.resblocks.") and int(key.split(".")[2]) >= kept:
            continue
        name = key
        for old, new in OPEN_CLIP.items():
            name = name.replace(old, new)
        value = np.asarray(state[key])
        if key == "text_projection":
            found["text_projection.weight"] = value.T
        elif ".attn.in_proj_" in name:
            for part, rows in zip("qkv", np.split(value, 3), strict=True):
                found[name.replace(".attn.in_proj_", f".self_attn.{part}_proj.")] = rows
        else:
            found[name] = value
    return found


def told(state: Mapping[str, Any], activation: str) -> dict[str, Any]:
    """What the configuration of a text encoder would say, by its tensors; heads have 64 channels."""
    shapes = {k.removeprefix("text_model."): v for k, v in shapes_of(state).items()}
    vocabulary, width = shape_of(shapes, "embeddings.token_embedding.weight", 2)
    return {
        "hidden_act": activation,
        "vocab_size": vocabulary,
        "hidden_size": width,
        "max_position_embeddings": shape_of(shapes, "embeddings.position_embedding.weight", 2)[0],
        "num_hidden_layers": len({k.split(".")[2] for k in shapes if k.startswith("encoder.layers.")}),
        "num_attention_heads": max(width // 64, 1),
        "intermediate_size": shape_of(shapes, "encoder.layers.0.mlp.fc1.weight", 2)[0],
    }
