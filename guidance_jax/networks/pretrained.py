"""OpenAI's PyTorch state dicts as parameters of `ADMUNet` and `ADMClassifier`."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def from_torch(state: Mapping[str, Any]) -> dict:
    """The Flax parameters of a guided-diffusion state dict (name -> array, PyTorch layout).

    Names map one to one (`input_blocks.1.0.in_layers.2.weight` is `input_blocks_1_0 / in_layers_2 / kernel`); kernels
    go from (out, in, h, w) to (h, w, in, out), linear maps and 1 x 1 ones to (in, out).

    Raises:
      ValueError: a tensor of a kind that these networks do not have.
    """
    params: dict = {}
    for key, tensor in state.items():
        *modules, leaf = _join_numbers(key.split("."))
        node = params
        for module in modules:
            node = node.setdefault(module, {})
        name, value = _leaf(modules[-1], leaf, np.asarray(tensor), key)
        node[name] = value
    return {"params": params}


def _join_numbers(parts: list[str]) -> list[str]:
    """Numbers belong to the name before them, and the `op` and `conv` of a resampler to the block."""
    joined: list[str] = []
    for part in parts:
        if joined and (part.isdigit() or part in ("op", "conv")):
            joined[-1] += f"_{part}"
        else:
            joined.append(part)
    return joined


def _leaf(module: str, leaf: str, a: np.ndarray, key: str) -> tuple[str, np.ndarray]:
    if leaf == "positional_embedding":
        return leaf, a.T
    if leaf == "bias" and a.ndim == 1:
        return "bias", a
    if leaf == "weight":
        if module == "label_emb":
            return "embedding", a
        if a.ndim == 1:
            return "scale", a
        if a.ndim == 2:
            return "kernel", a.T
        if a.ndim == 3 and a.shape[2] == 1:
            return "kernel", a[:, :, 0].T
        if a.ndim == 4 and module == "out_3":  # the adaptive pool's 1 x 1 convolution of one pixel
            return "kernel", a[:, :, 0, 0].T
        if a.ndim == 4:
            return "kernel", a.transpose(2, 3, 1, 0)
    raise ValueError(f"{key} of shape {a.shape} belongs to no ADM network; pass a guided-diffusion state dict")
