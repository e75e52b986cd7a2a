"""From the names and layouts of PyTorch modules to the parameters of a Flax network of the same module names."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from guidance_jax.core import Refused


def from_torch(state: Mapping[str, Any]) -> dict:
    """The Flax parameters of a state dict (name -> array, PyTorch layout) of guided-diffusion or GLIDE.

    Names map one to one (`input_blocks.1.0.in_layers.2.weight` is `input_blocks_1_0 / in_layers_2 / kernel`); kernels
    go from (out, in, h, w) to (h, w, in, out), linear maps and 1 x 1 ones to (in, out).

    Raises:
      Refused: a tensor of a kind that these networks do not have.
    """
    params: dict = {}
    for key, tensor in state.items():
        *modules, name = _path(key)
        node = params
        for module in modules:
            node = node.setdefault(module, {})
        leaf, value = _leaf(modules[-1] if modules else "", name, np.asarray(tensor), key)
        node[leaf] = value
    return {"params": params}


def fitted(state: Mapping[str, Any], network: Any, *inputs: Any) -> dict:
    """The parameters of `network`, each of the shape that it has on `inputs`, in float32.

    Raises:
      Refused: a tensor that is missing, left over or of another shape; its name and both shapes are given.
    """
    expected = jax.eval_shape(network.init, jax.random.key(0), *inputs)
    wanted = {_text(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(expected)}
    for key, tensor in state.items():
        one = jax.tree_util.tree_leaves_with_path(from_torch({key: tensor}))
        path, value = _text(one[0][0]), one[0][1]
        if path not in wanted:
            raise Refused(f"the tensor {key} of shape {np.shape(tensor)} belongs to nothing in {kind(network)}")
        if wanted[path] != value.shape:
            expected_shape = _torch_shape(np.shape(tensor), wanted[path])
            raise Refused(
                f"the tensor {key} has shape {np.shape(tensor)}, expected {expected_shape} by the other tensors of "
                f"this {kind(network)}"
            )
        del wanted[path]
    if wanted:
        path = next(iter(wanted))
        raise Refused(f"the checkpoint has no tensor for {path} of shape {wanted[path]}, {len(wanted)} are missing")
    return jax.tree.map(lambda a: np.ascontiguousarray(a, np.float32), from_torch(state))


def kind(network: Any) -> str:
    return type(network).__name__


def _text(path: Any) -> str:
    return "/".join(str(p.key) for p in path[1:])


def _torch_shape(found: tuple[int, ...], flax: tuple[int, ...]) -> tuple[int, ...]:
    """A parameter's shape in PyTorch's order, as far as `found` tells which kind of layer it is."""
    if len(flax) == 4:
        return (flax[3], flax[2], flax[0], flax[1])
    return (*flax[::-1], *(1,) * (len(found) - 2)) if len(flax) == 2 else flax


def _path(key: str) -> list[str]:
    """Numbers belong to the name before them, a resampler's `op` and `conv` and the maps of `attn` and `mlp` too."""
    joined: list[str] = []
    for part in key.split("."):
        resampler = part in ("op", "conv") and bool(joined) and "put_blocks" in joined[-1]
        if joined and (part.isdigit() or resampler or joined[-1] in ("attn", "mlp")):
            joined[-1] += f"_{part}"
        else:
            joined.append(part)
    return joined


def _leaf(module: str, leaf: str, a: np.ndarray, key: str) -> tuple[str, np.ndarray]:
    if not module:  # GLIDE's positions and paddings, (L, C)
        return leaf, a
    if leaf == "positional_embedding":
        return leaf, a.T
    if leaf in ("bias", "running_mean", "running_var") and a.ndim == 1:
        return leaf.removeprefix("running_"), a
    if leaf == "weight":
        if module in ("label_emb", "token_embedding"):
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
    raise Refused(f"{key} of shape {a.shape} belongs to no network that can be converted")
