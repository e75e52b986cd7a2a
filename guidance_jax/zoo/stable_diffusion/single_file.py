"""Read single files of Stable Diffusion 1, 2 and XL: U-Net, autoencoder and text encoders in one state dict."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from guidance_jax.checkpoints.config import config
from guidance_jax.checkpoints.safetensors_file import Renamed, shapes_of
from guidance_jax.core import Refused
from guidance_jax.models.domain import Domain
from guidance_jax.schedules import ScaledLinearBetas
from guidance_jax.zoo.diffusers.scheduler import PREDICTIONS
from guidance_jax.zoo.pipeline_parts import PipelineParts
from guidance_jax.zoo.stable_diffusion.names import autoencoder, clip_text, unet
from guidance_jax.zoo.state_dict import shape_of

UNET, AUTOENCODER = "model.diffusion_model.", "first_stage_model."  # prefixes of tensor names


@dataclasses.dataclass(frozen=True)
class Release:
    """Facts that the tensors of a single file do not determine; the width of the context identifies the release."""

    side: int  # of the latents
    heads: tuple[str, int]
    texts: tuple[tuple[str, int, int | None], ...]  # prefix of an encoder, its `skip`, -1 to drop its last layer


BY_CHANNELS = ("num_head_channels", 64)
V1, V2 = "cond_stage_model.transformer.", "cond_stage_model.model."
XL = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
RELEASES = {
    768: Release(64, ("num_heads", 8), ((V1, 0, None),)),
    1024: Release(64, BY_CHANNELS, ((V2, 0, -1),)),  # the input of the last layer, normalised
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
) -> PipelineParts:
    """Return the parts of a single file of Stable Diffusion 1, 2 or XL: U-Net, autoencoder and text encoders.

    Single files have no tokenizer.

    Args:
      state: a mapping from tensor names to arrays.
      prediction: "epsilon", "sample" or "v_prediction"; None for "epsilon". Version 2 needs it, since it exists with
        noise and with v.
      side: the side of the pictures in pixels; None for 512, 768 for version 2 with v, 1024 for XL.
      groups: the number of groups of the norms.

    Raises:
      Refused: an unknown prediction; a tensor that is missing, left over or of the wrong shape.
    """
    keys = [k for k in state if k.startswith(UNET) and k.endswith("attn2.to_k.weight")]
    width = shapes_of(state)[keys[0]][1] if keys else None
    if width not in RELEASES:
        raise Refused(f"a U-Net with a context of width {width} does not belong to Stable Diffusion 1, 2 or XL")
    if prediction is None and width == 1024:
        raise Refused("Stable Diffusion 2 predicts noise or v: choose prediction epsilon or v_prediction")
    meaning = PREDICTIONS.get(prediction or "epsilon")
    if meaning is None:
        raise Refused(f"prediction must be one of {', '.join(PREDICTIONS)}, got {prediction!r}")
    release = RELEASES[width]
    network, params = unet(under(state, UNET), dict([release.heads]), groups)
    latent = side // 8 if side else 96 if prediction == "v_prediction" and width == 1024 else release.side
    context: tuple = (("context", (77, width)),)
    found = PipelineParts({"grid": {"name": "spaced", "spacing": "leading", "offset": 1, "clean": width == 2048}})
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
        network, params = clip_text(text, describe_encoder(text, "gelu" if text is not own else "quick_gelu"), skip)
        found.parts["text" + f"_{i + 1}" * (i > 0)] = config(network, None), params
    return found


def under(state: Mapping[str, Any], prefix: str) -> Renamed:
    """Return the tensors whose names begin with `prefix`, by their names without it."""
    return Renamed(state, {k.removeprefix(prefix): k for k in state if k.startswith(prefix)})


def from_open_clip(state: Mapping[str, Any], layers: int | None) -> dict[str, Any]:
    """Return OpenCLIP's text encoder by the names of the transformers library; `layers` -1 drops the last layer."""
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


def describe_encoder(state: Mapping[str, Any], activation: str) -> dict[str, Any]:
    """Return the configuration of a text encoder from its tensors; heads have 64 channels."""
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
