"""Read latent transformers by their published names (DiT, SiT, REPA, LightningDiT), and DiT by diffusers' names.

Tensors determine the widths, the depth, the patches, the classes and the options of the blocks. They do not determine
the number of heads, which is known for the published sizes. They also do not tell a DiT from a SiT: both files hold the
same tensors, but predict noise or a velocity on another clock. REPA's projectors, which only its training needs, and
stored rotations are left out.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from guidance_jax.checkpoints.safetensors_file import shapes_of
from guidance_jax.checkpoints.tensors import match_params
from guidance_jax.core import Refused
from guidance_jax.models.domain import Domain
from guidance_jax.models.parameterizations import LearnedRange, eps, velocity, velocity_to_data
from guidance_jax.schedules import LinearBetas, RectifiedFlow
from guidance_jax.untrusted import check_size, whole_number
from guidance_jax.zoo.dit.network import DiT, sincos
from guidance_jax.zoo.state_dict import UNKNOWN, Options, Recognized, shape_of

HEADS = {1152: 16, 1024: 16, 768: 12, 384: 6}  # by width, of the published sizes XL, L, B and S
ROTATION = "feat_rope.freqs_cos"  # rotary positions, stored: a row for each token, a column for each channel of a head
# the meaning of the output, and the number of leading channels that published sampling guides; None for all
FAMILIES = {
    "DiT": (LearnedRange(), 3),
    "SiT": (velocity_to_data, 3),
    "REPA": (velocity, None),
    "LightningDiT": (velocity_to_data, 3),
}
# diffusers' names -> those of the published code, within a block (BLOCK) and outside
BLOCK = {"norm1.linear": "adaLN_modulation.1", "attn1.to_out.0": "attn.proj", "ff.net.0.proj": "mlp.fc1"}
BLOCK |= {"ff.net.2": "mlp.fc2"}
REST = {"pos_embed.proj": "x_embedder.proj", "proj_out_1": "final_layer.adaLN_modulation.1"}
REST |= {"proj_out_2": "final_layer.linear"}
SHARED = {"timestep_embedder.linear_1": "t_embedder.mlp.0", "timestep_embedder.linear_2": "t_embedder.mlp.2"}
SHARED |= {"class_embedder.embedding_table": "y_embedder.embedding_table"}


def is_dit(state: Mapping[str, Any]) -> bool:
    return "blocks.0.adaLN_modulation.1.weight" in state


def family_of(state: Mapping[str, Any], told: str | None) -> str:
    """Return the family of a latent transformer's state dict; `told`, if not None, decides.

    Raises:
      Refused: an unknown family, or no `told` where the tensors do not determine it.
    """
    if told is not None and told not in FAMILIES:
        raise Refused(f"family must be one of {', '.join(FAMILIES)}, got {told!r}")
    if ROTATION in state:
        return told or "LightningDiT"
    if any(k.startswith("projectors.") for k in state):
        return told or "REPA"
    if told is None:
        raise Refused(
            "DiT and SiT files hold the same tensors but mean different things; choose family DiT, SiT or REPA"
        )
    return told


def dit(state: Mapping[str, Any], known: Options = UNKNOWN) -> Recognized:
    """Return the transformer of a state dict with the published names.

    DiT predicts noise and a learned variance on OpenAI's linear betas. The others predict a velocity on
    `RectifiedFlow`: REPA on the clock of this package, SiT and LightningDiT on the reversed clock (`velocity_to_data`).
    If a velocity network has twice the channels of its input as outputs, the second half is unused and left out. The
    first three channels are guided, as in the published `forward_with_cfg`; in REPA all of them.

    Args:
      state: a mapping from tensor names to arrays.
      known: `family` and `num_heads`, if the tensors do not determine them. The last row of the label table means
        "unconditional", unless `null_label` is False. A network with a table of one row is unconditional.

    Raises:
      Refused: a missing option; a tensor that is missing, left over or of the wrong shape.
    """
    family = family_of(state, known.family)
    turned = np.shape(state[ROTATION])[-1] if ROTATION in state else None
    state = {k: v for k, v in state.items() if not k.startswith(("projectors.", "feat_rope."))}
    shapes = shapes_of(state)
    width, channels, patch, _ = shape_of(shapes, "x_embedder.proj.weight", 4)
    side = round(shape_of(shapes, "pos_embed", 3)[1] ** 0.5) * patch
    rows = shape_of(shapes, "y_embedder.embedding_table.weight", 2)[0]
    if rows == 1:  # one row is the same for every sample: it joins the bias, and is no condition
        bias = np.asarray(state["t_embedder.mlp.2.bias"])
        state["t_embedder.mlp.2.bias"] = bias + np.asarray(state.pop("y_embedder.embedding_table.weight"))[0]
        rows = 0
    outputs = shape_of(shapes, "final_layer.linear.weight", 2)[0] // patch**2
    if family != "DiT" and outputs == 2 * channels:
        for name in ("final_layer.linear.weight", "final_layer.linear.bias"):
            value = np.asarray(state[name]).reshape(patch**2, outputs, -1)[:, :channels]
            state[name] = value.reshape(patch**2 * channels, *shapes[name][1:])
        outputs = channels
    gated = "blocks.0.mlp.w12.weight" in shapes
    mlp = shapes["blocks.0.mlp.w3.weight"][1] if gated else shape_of(shapes, "blocks.0.mlp.fc1.weight", 2)[0]
    network = DiT(
        width=width,
        heads=heads_of(width, known.num_heads) if turned is None else width // turned,
        mlp_width=mlp,
        rms="blocks.0.norm1.weight" in shapes,
        gated=gated,
        rotary=turned is not None,
        qk_norm="blocks.0.attn.q_norm.weight" in shapes,
        depth=len({k.split(".")[1] for k in shapes if k.startswith("blocks.")}),
        patch=patch,
        out_channels=outputs,
        num_classes=rows,
    )
    shape = (side, side, channels)
    params = match_params(state, network, *inputs(shape)[: 3 if rows else 2])
    parameterization, guided = FAMILIES[family]
    schedule = LinearBetas(1000) if family == "DiT" else RectifiedFlow()
    null = None if known.null_label is False or not rows else rows - 1
    domain = Domain(shape, schedule, (rows if null is None else null) or None, null, guided_channels=guided)
    return Recognized(network, params, domain, parameterization)


def inputs(shape: tuple[int, ...]) -> tuple[Any, Any, Any]:
    """Return a sample, a time and a label, all zero."""
    return jnp.zeros(shape), jnp.zeros(()), jnp.zeros((), int)


def heads_of(width: int, told: int | None) -> int:
    """Return the number of heads of a published width; `told`, if not None, decides."""
    if told is None and width not in HEADS:
        raise Refused(f"a transformer of width {width} has none of the published sizes; pass num_heads")
    return told or HEADS[width]


def dit_of_diffusers(state: Mapping[str, Any], about: Mapping[str, Any]) -> Recognized:
    """Return the network of diffusers' `DiTTransformer2DModel`.

    Its positions are computed, and every block repeats the embedders of time and class. As in diffusers,
    `frequency_shift` is 1 and all channels are guided.

    Args:
      state: a mapping from tensor names to arrays.
      about: the content of its `config.json`.

    Raises:
      Refused: embedders that differ between blocks; a tensor that is missing, left over or of the wrong shape.
    """
    rest = dict(state)
    found = {
        new + leaf: rest.pop(old + leaf)
        for old, new in REST.items()
        for leaf in (".weight", ".bias")
        if old + leaf in rest
    }
    counts = ("num_layers", "patch_size", "sample_size")
    depth, patch, side = (whole_number(about, name, "transformer") for name in counts)
    for i in range(depth):
        old, new = f"transformer_blocks.{i}.", f"blocks.{i}."
        for leaf in (".weight", ".bias"):
            for a, b in SHARED.items():
                if (name := f"{old}norm1.emb.{a}{leaf}") in rest:
                    value = np.asarray(rest.pop(name))
                    if not np.array_equal(found.setdefault(b + leaf, value), value):
                        raise Refused(f"{name} differs from that of block 0: embedders of blocks must be tied")
            for a, b in BLOCK.items():
                if (name := f"{old}{a}{leaf}") in rest:
                    found[f"{new}{b}{leaf}"] = rest.pop(name)
            parts = [f"{old}attn1.to_{part}{leaf}" for part in "qkv"]
            if all(name in rest for name in parts):
                found[f"{new}attn.qkv{leaf}"] = np.concatenate([np.asarray(rest.pop(name)) for name in parts])
    found |= rest  # `match_params` refuses tensors that are left over, and names one
    heads, channels = (whole_number(about, name, "transformer") for name in ("num_attention_heads", "in_channels"))
    width = heads * whole_number(about, "attention_head_dim", "transformer")
    size = sum(math.prod(shape) for shape in shapes_of(state).values())
    check_size((side // patch) ** 2 * width, size, "the transformer")  # the positions are computed, not read
    network = DiT(
        width=width,
        heads=heads,
        mlp_width=4 * width,
        mlp_epsilon=float(about["norm_eps"]),
        depth=depth,
        patch=patch,
        out_channels=int(about["out_channels"] or channels),
        num_classes=whole_number(about, "num_embeds_ada_norm", "transformer") + 1,
        frequency_shift=1,
    )
    shape = (side, side, channels)
    found["pos_embed"] = sincos(side // patch, side // patch, width)
    params = match_params(found, network, *inputs(shape))
    classes = network.num_classes - 1
    learned = network.out_channels == 2 * channels
    return Recognized(network, params, Domain(shape, None, classes, classes), LearnedRange() if learned else eps)
