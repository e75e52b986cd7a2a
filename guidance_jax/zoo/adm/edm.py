"""EDM checkpoints of the ADM architecture (Karras et al. 2022, arXiv 2206.00364; ImageNet 64 x 64).

EDM's `DhariwalUNet` is OpenAI's U-Net with other names and another order of the attention's projections. Its tensors
become those of an `ADMUNet`, preconditioned by `EDM`. The image size is in the names. NVIDIA's own files are pickles of
code, which are refused; save `{k: v.contiguous() for k, v in net.state_dict().items()}` as safetensors.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from guidance_jax.core import Refused
from guidance_jax.models import parameterizations
from guidance_jax.schedules import VE
from guidance_jax.zoo.adm.reader import adm
from guidance_jax.zoo.state_dict import Options, Recognized

HEAD = 64  # channels of every attention head
BLOCK = {
    "norm0": "in_layers.0",
    "conv0": "in_layers.2",
    "affine": "emb_layers.1",
    "norm1": "out_layers.0",
    "conv1": "out_layers.3",
    "skip": "skip_connection",
}
ATTENTION = {"norm2": "norm", "qkv": "qkv", "proj": "proj_out"}


def is_edm(state: Mapping[str, Any]) -> bool:
    return any("map_layer0." in k or "emb_fourier" in k for k in state)


def edm(state: Mapping[str, Any], sigma_data: float = 0.5) -> Recognized:
    """Return the network of EDM's state dict, with or without the prefix `model.` of the preconditioning.

    Raises:
      Refused: EDM's other architectures, EDM2, or tensors that are missing, left over or of the wrong shape.
    """
    state = {k.removeprefix("model."): np.asarray(v) for k, v in state.items()}
    if any("aux_norm" in k or "emb_fourier" in k for k in state):
        raise Refused("only EDM networks with the ADM architecture (ImageNet 64 x 64) can be converted")
    size, renamed = rename_to_openai(state)
    found = adm(renamed, Options(size, VE(), None, HEAD, False))
    return dataclasses.replace(found, parameterization=parameterizations.EDM(sigma_data))


def rename_to_openai(state: Mapping[str, np.ndarray]) -> tuple[int, dict[str, np.ndarray]]:
    """Return (image size, the same tensors by OpenAI's names)."""
    rest = {k: v for k, v in state.items() if not k.endswith("resample_filter") and not k.startswith("map_augment.")}
    found: dict[str, np.ndarray] = {}

    def move(old: str, new: str) -> None:
        for leaf in ("weight", "bias"):
            if f"{old}.{leaf}" in rest:
                found[f"{new}.{leaf}"] = rest.pop(f"{old}.{leaf}")

    def block(old: str, new: str, place: int = 0) -> int:
        """Move a block to `new`.`place` and its attention to the next place. Return the next free place."""
        for a, b in BLOCK.items():
            move(f"{old}.{a}", f"{new}.{place}.{b}")
        if f"{old}.qkv.weight" not in rest:
            return place + 1
        for name, change in (("qkv.weight", by_head), ("qkv.bias", by_head), ("proj.weight", one_axis)):
            if f"{old}.{name}" in rest:  # if it is missing, `adm` reports it
                rest[f"{old}.{name}"] = change(rest[f"{old}.{name}"], f"{old}.{name}")
        for a, b in ATTENTION.items():
            move(f"{old}.{a}", f"{new}.{place + 1}.{b}")
        return place + 2

    sides = sorted({int(m[1]) for k in rest if (m := re.match(r"enc\.(\d+)x", k))}, reverse=True)
    if not sides:
        raise Refused("not an EDM checkpoint: it has no encoder")
    depth = len({k.split(".")[1] for k in rest if k.startswith(f"enc.{sides[0]}x{sides[0]}_block")})
    move("map_layer0", "time_embed.0")
    move("map_layer1", "time_embed.2")
    if "map_label.weight" in rest:
        found["label_emb.weight"] = rest.pop("map_label.weight").T
    move(f"enc.{sides[0]}x{sides[0]}_conv", "input_blocks.0.0")
    index = 1
    for level, side in enumerate(sides):
        names = ["down"] * (level > 0) + [f"block{i}" for i in range(depth)]
        for name in names:
            block(f"enc.{side}x{side}_{name}", f"input_blocks.{index}")
            index += 1
    last = f"dec.{sides[-1]}x{sides[-1]}"
    block(f"{last}_in1", "middle_block", block(f"{last}_in0", "middle_block"))
    index = 0
    for level, side in reversed(list(enumerate(sides))):
        for i in range(depth + 1):
            place = block(f"dec.{side}x{side}_block{i}", f"output_blocks.{index}")
            if level and i == depth:
                block(f"dec.{sides[level - 1]}x{sides[level - 1]}_up", f"output_blocks.{index}", place)
            index += 1
    move("out_norm", "out.0")
    move("out_conv", "out.2")
    if rest:
        raise Refused(f"the checkpoint has a tensor that EDM's ADM does not have: {sorted(rest)[0]}")
    return sides[0], found


def by_head(a: np.ndarray, key: str) -> np.ndarray:
    """Reorder rows (head, channel, q k v) to (head, q k v, channel), and apply `one_axis`."""
    if a.ndim < 1 or len(a) % (3 * HEAD):
        raise Refused(f"the tensor {key} has shape {a.shape}, expected a multiple of {3 * HEAD} rows")
    return one_axis(a.reshape(-1, HEAD, 3, *a.shape[1:]).swapaxes(1, 2).reshape(a.shape), key)


def one_axis(a: np.ndarray, key: str) -> np.ndarray:
    """Return a 1 x 1 kernel with one spatial axis, as in OpenAI's files; any other array unchanged."""
    return a[..., 0] if a.ndim == 4 else a
