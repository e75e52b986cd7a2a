"""Read transformers of Stable Diffusion 3, 3.5 and FLUX.1, and T5, from single files with their authors' names."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from guidance_jax.checkpoints.safetensors_file import Lazy, shapes_of
from guidance_jax.core import Refused
from guidance_jax.zoo.state_dict import shape_of

AXES = {128: [16, 56, 56]}  # channels of a head of FLUX that belong to its three rotary axes
# the authors' name of a module -> diffusers', within a block or outside
OUTSIDE = {
    "x_embedder.proj": "pos_embed.proj",
    "t_embedder.mlp.": "time_text_embed.timestep_embedder.linear_",
    "y_embedder.mlp.": "time_text_embed.text_embedder.linear_",
    "time_in.": "time_text_embed.timestep_embedder.linear_",
    "vector_in.": "time_text_embed.text_embedder.linear_",
    "guidance_in.": "time_text_embed.guidance_embedder.linear_",
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}
LAYERS = {"0": "1", "2": "2", "in_layer": "1", "out_layer": "2"}  # the layers of an MLP
SIDES = {"img": "", "x_block": "", "txt": "_context", "context_block": "_context"}
NORMS = {"ln_q": "q", "ln_k": "k", "norm.query_norm": "q", "norm.key_norm": "k"}
MLP = {"fc1": "0.proj", "fc2": "2", "0": "0.proj", "2": "2"}
JOINT = re.compile(r"(?:joint|double)_blocks\.(\d+)\.(x_block|context_block|img|txt)[._](.*)\.(weight|bias|scale)")
SINGLE = re.compile(r"single_blocks\.(\d+)\.(.*)\.(weight|bias|scale)")


class Pieces(Lazy):
    """Rows of the tensors of `state` under other names: `pieces` maps a name to (old name, slices of rows)."""

    def __init__(self, state: Mapping[str, Any], pieces: Mapping[str, tuple[str, tuple[slice, ...]]]):
        self.state, self.pieces = state, pieces

    def __getitem__(self, name):
        key, slices = self.pieces[name]
        return np.concatenate([np.asarray(self.state[key])[part] for part in slices])

    def __iter__(self):
        return iter(self.pieces)

    def __len__(self):
        return len(self.pieces)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes by name."""
        known, found = shapes_of(self.state), {}
        for name, (key, slices) in self.pieces.items():
            rows, *rest = known[key]
            found[name] = (sum(len(range(*part.indices(rows))) for part in slices), *rest)
        return found


def is_multimodal_file(state: Mapping[str, Any], prefix: str) -> bool:
    """Return whether a state dict holds a network of SD3 or FLUX, with the prefix or without."""
    return any(re.match(rf"({re.escape(prefix)})?(joint|double)_blocks\.0\.", name) for name in state)


def name_as_diffusers(state: Mapping[str, Any]) -> tuple[Lazy, dict[str, Any]]:
    """Return a transformer by diffusers' names, and the content that its `config.json` would have.

    Args:
      state: a mapping from the authors' tensor names, without a prefix, to arrays.

    Raises:
      Refused: a tensor of another kind of network, or one that is missing.
    """
    shapes = shapes_of(state)
    sd3 = "x_embedder.proj.weight" in shapes
    about = describe_sd3(shapes) if sd3 else describe_flux(shapes)
    width, last = about["num_attention_heads"] * about["attention_head_dim"], about["num_layers"] - 1
    pieces = {name: (key, rows) for key in shapes for name, rows in names_of(key, width)}
    halves = slice(width, None), slice(None, width)  # the last layers have shift and scale in the other order
    for module in ("norm_out.linear", *([f"transformer_blocks.{last}.norm1_context.linear"] if sd3 else [])):
        for kind in ("weight", "bias"):
            if (name := f"{module}.{kind}") in pieces:
                pieces[name] = pieces[name][0], halves
    return Pieces(state, pieces), about


def names_of(key: str, width: int) -> list[tuple[str, tuple[slice, ...]]]:
    """Return diffusers' names of the tensors that one tensor holds, each with its rows."""
    whole = (slice(None),)
    if (found := JOINT.fullmatch(key)) is not None:
        block, side, rest, kind = f"transformer_blocks.{found[1]}", SIDES[found[2]], found[3], found[4]
        kind = "weight" if kind == "scale" else kind
        if (own := re.fullmatch(r"(attn2?)\.(.*)", rest)) is not None:
            attention, part = f"{block}.{own[1]}", own[2]
            if part == "qkv":
                names = [f"add_{q}_proj" if side else f"to_{q}" for q in "qkv"]
                thirds = [(slice(i * width, (i + 1) * width),) for i in range(3)]
                return [(f"{attention}.{name}.{kind}", rows) for name, rows in zip(names, thirds, strict=True)]
            if part == "proj":
                return [(f"{attention}.{'to_add_out' if side else 'to_out.0'}.{kind}", whole)]
            if part in NORMS:
                return [(f"{attention}.norm_{'added_' if side else ''}{NORMS[part]}.{kind}", whole)]
        if rest in ("adaLN_modulation.1", "mod.lin"):
            return [(f"{block}.norm1{side}.linear.{kind}", whole)]
        if (own := re.fullmatch(r"mlp\.(\w+)", rest)) is not None and own[1] in MLP:
            return [(f"{block}.ff{side}.net.{MLP[own[1]]}.{kind}", whole)]
    elif (found := SINGLE.fullmatch(key)) is not None:
        block, rest = f"single_transformer_blocks.{found[1]}", found[2]
        kind = "weight" if found[3] == "scale" else found[3]
        if rest == "linear1":
            names = [*(f"attn.to_{q}" for q in "qkv"), "proj_mlp"]
            rows = [slice(i * width, (i + 1) * width if i < 3 else None) for i in range(4)]
            return [(f"{block}.{name}.{kind}", (part,)) for name, part in zip(names, rows, strict=True)]
        if rest in NORMS:
            return [(f"{block}.attn.norm_{NORMS[rest]}.{kind}", whole)]
        if rest in ("linear2", "modulation.lin"):
            return [(f"{block}.{'proj_out' if rest == 'linear2' else 'norm.linear'}.{kind}", whole)]
    elif key == "pos_embed":
        return [("pos_embed.pos_embed", whole)]
    module, _, kind = key.rpartition(".")
    for old, new in OUTSIDE.items():
        layer = module.removeprefix(old)
        if old.endswith(".") and module.startswith(old) and layer in LAYERS:
            return [(f"{new}{LAYERS[layer]}.{kind}", whole)]
        if module == old:
            return [(f"{new}.{kind}", whole)]
    return [(key, whole)]


def describe_sd3(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return the configuration of SD3's transformer, from its shapes."""
    width, _, patch, _ = shape_of(shapes, "x_embedder.proj.weight", 4)
    side = round(shape_of(shapes, "pos_embed", 3)[1] ** 0.5)
    norm = shapes.get("joint_blocks.0.x_block.attn.ln_q.weight")
    dual = sorted({int(k.split(".")[1]) for k in shapes if ".x_block.attn2." in k})
    return heads_of(shapes, "joint_blocks", width, 64 if norm is None else norm[0]) | {
        "_class_name": "SD3Transformer2DModel",
        "patch_size": patch,
        "out_channels": shape_of(shapes, "final_layer.linear.weight", 2)[0] // patch**2,
        "pos_embed_max_size": side,
        "sample_size": 128,
        "joint_attention_dim": shape_of(shapes, "context_embedder.weight", 2)[1],
        "pooled_projection_dim": shape_of(shapes, "y_embedder.mlp.0.weight", 2)[1],
        "dual_attention_layers": dual,
        "qk_norm": None if norm is None else "rms_norm",
    }


def describe_flux(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return the configuration of FLUX's transformer, from its shapes."""
    width, channels = shape_of(shapes, "img_in.weight", 2)
    (head,) = shape_of(shapes, "double_blocks.0.img_attn.norm.query_norm.scale", 1)
    if head not in AXES:
        raise Refused(f"the transformer has heads of {head} channels, FLUX.1 has {', '.join(map(str, AXES))}")
    return heads_of(shapes, "double_blocks", width, head) | {
        "_class_name": "FluxTransformer2DModel",
        "out_channels": None,
        "num_single_layers": len({k.split(".")[1] for k in shapes if k.startswith("single_blocks.")}),
        "in_channels": channels,
        "joint_attention_dim": shape_of(shapes, "txt_in.weight", 2)[1],
        "pooled_projection_dim": shape_of(shapes, "vector_in.in_layer.weight", 2)[1],
        "axes_dims_rope": AXES[head],
        "guidance_embeds": "guidance_in.in_layer.weight" in shapes,
    }


def heads_of(shapes: Mapping[str, Any], blocks: str, width: int, head: int) -> dict[str, Any]:
    if head < 1 or width % head:
        raise Refused(f"the transformer has width {width} and heads of {head} channels, which do not fit")
    depth = len({k.split(".")[1] for k in shapes if k.startswith(f"{blocks}.")})
    return {"attention_head_dim": head, "num_attention_heads": width // head, "num_layers": depth}


def describe_t5(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return the configuration of T5's encoder, from its shapes."""
    first = "encoder.block.0.layer."
    buckets, heads = shape_of(shapes, f"{first}0.SelfAttention.relative_attention_bias.weight", 2)
    vocabulary, width = shape_of(shapes, "shared.weight", 2)
    return {
        "feed_forward_proj": "gated-gelu" if f"{first}1.DenseReluDense.wi_0.weight" in shapes else "relu",
        "vocab_size": vocabulary,
        "d_model": width,
        "num_layers": len({k.split(".")[2] for k in shapes if k.startswith("encoder.block.")}),
        "num_heads": heads,
        "d_kv": shape_of(shapes, f"{first}0.SelfAttention.q.weight", 2)[0] // heads,
        "d_ff": shape_of(shapes, f"{first}1.DenseReluDense.wo.weight", 2)[1],
        "relative_attention_num_buckets": buckets,
    }
