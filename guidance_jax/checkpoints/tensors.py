"""Convert names and layouts of PyTorch tensors to the parameters of a Flax network with the same module names."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import Refused
from guidance_jax.untrusted import reading

# lists of equal blocks that a network may store as one stacked array, like `nn.scan`: blocks.3.x is row 3 of blocks/x
STACKS = re.compile(r"(?:^|_)(blocks|transformer_blocks|layers)_(\d{1,6})(?=_|$)")


class Place(NamedTuple):
    """The place of a tensor in a network: the path of a parameter, and the row in it if the parameter is stacked."""

    path: str
    row: int | None = None


def match_params(state: Mapping[str, Any], network: Any, *inputs: Any) -> dict:
    """Return the parameters of `network` in float32 from a PyTorch state dict, with the shapes that `inputs` imply.

    Names map one to one; dots and slashes become underscores (`input_blocks.1.0.in_layers.2.weight` is
    `input_blocks_1_0 / in_layers_2 / kernel`). Kernels are transposed from (out, in, h, w) to (h, w, in, out), linear
    maps and convolutions of single patches to (in, out).

    Args:
      state: name -> array, in PyTorch's layout; every tensor is read once.
      network: the Flax module.
      inputs: the arguments of `network.init` after the key.

    Raises:
      Refused: a tensor that is missing, left over or of another shape (the message gives its name and both shapes);
        whole numbers, or numbers that are not finite.
    """
    wanted = shapes_in(network, *inputs)
    names = {flat(path): path for path in wanted}
    found: dict[str, Any] = {}
    for key in state:
        place = place_of(key, names)
        if place is None:
            shape = np.shape(state[key])
            raise Refused(f"the tensor {key} of shape {shape} has no place in {kind(network)}")
        shape = wanted[place.path] if place.row is None else wanted[place.path][1:]
        tensor = numbers(state[key], f"the tensor {key}")
        value = arrange(tensor, place.path, len(shape))
        if value.shape != shape:
            raise Refused(
                f"the tensor {key} has shape {tensor.shape}, expected {_torch_shape(tensor.shape, shape)} from the "
                f"other tensors of this {kind(network)}"
            )
        if place.row is None:
            if place.path in found:
                raise Refused(f"the tensor {key} occurs twice, under two equivalent names; remove one")
            found[place.path] = np.ascontiguousarray(value)
            continue
        rows, filled = found.setdefault(place.path, (np.empty(wanted[place.path], np.float32), set()))
        if place.row >= len(rows):
            raise Refused(f"the tensor {key} has no place in {kind(network)}, which has {len(rows)} such blocks")
        if place.row in filled:
            raise Refused(f"the tensor {key} occurs twice, under two equivalent names; remove one")
        rows[place.row] = value
        filled.add(place.row)
    for path, value in found.items():
        if isinstance(value, tuple):
            found[path], filled = value
            missing = set(range(len(value[0]))) - filled
            if missing:
                raise Refused(f"the checkpoint has no tensor for block {min(missing)} of {path}")
    missing = [path for path in wanted if path not in found]
    if missing:
        path = missing[0]
        raise Refused(f"the checkpoint has no tensor for {path} of shape {wanted[path]}, {len(missing)} are missing")
    return {"params": nest(found)}


def exact(flat: Mapping[str, Any], network: Any, *inputs: Any) -> dict:
    """Return the parameters of `network` in float32 from arrays that already have its names and layouts.

    Args:
      flat: "module/name" -> array.
      network: the Flax module.
      inputs: the arguments of `network.init` after the key.

    Raises:
      Refused: an array that is missing, left over or of another shape (the message gives its name and both shapes);
        whole numbers, or numbers that are not finite.
    """
    same_shapes({path: np.shape(a) for path, a in flat.items()}, shapes_in(network, *inputs), kind(network))
    return {"params": nest({path: np.ascontiguousarray(numbers(a, path)) for path, a in flat.items()})}


def check_params(params: Any, network: Any, inputs: tuple | None, where: Any) -> None:
    """Raise unless `params`, read from a checkpoint of this package, fit `network` and are finite.

    `inputs` are the arguments of `network.init` after the key; with them, names and shapes are compared. They are known
    for networks of this package with a domain. For other networks they are None, and only the numbers are checked.

    Raises:
      Refused: an array that is missing, left over or of another shape; with `inputs`, an array that is not of
        floating-point numbers; numbers that are not finite. `where` names the checkpoint.
    """
    found = {_text(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    if inputs is not None:
        wanted = {f"params/{path}": shape for path, shape in shapes_in(network, *inputs).items()}
        same_shapes({path: np.shape(a) for path, a in found.items()}, wanted, f"{where}: {kind(network)}")
    for path, leaf in found.items():
        if inputs is not None or jnp.issubdtype(leaf.dtype, jnp.floating):
            numbers(leaf, f"{where}: {path}", None)


def same_shapes(found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Raise unless `found` and `wanted` have the same names with the same shapes."""
    for path in sorted({*found, *wanted}):
        if found.get(path) != wanted.get(path):
            raise Refused(
                f"{where}, {path[:200]}: expected shape {wanted.get(path)}, the checkpoint has {found.get(path)}"
            )


def numbers(array: Any, name: str, dtype: Any = np.float32) -> np.ndarray:
    """Return `array` on the host as `dtype` (None keeps its type); it must hold finite floating-point numbers.

    Raises:
      Refused: whole numbers or other types; NaN or infinity, also after the conversion. The message begins with `name`.
    """
    array = np.asarray(array)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        what = "whole numbers" if jnp.issubdtype(array.dtype, jnp.integer) else str(array.dtype)
        raise Refused(f"{name} holds {what}: quantised weights are not supported; save floating-point numbers")
    with np.errstate(over="ignore", invalid="ignore"):
        array = array if dtype is None else array.astype(dtype, copy=False)
        bad = array.size - np.count_nonzero(np.isfinite(array))
    if bad:
        raise Refused(f"{name} holds {bad} of {array.size} numbers that are not finite; train or fetch it again")
    return array


def shapes_in(network: Any, *inputs: Any) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter of `network` for these `inputs`, by its path.

    Raises:
      Refused: options of a network that contradict each other or the inputs.
    """
    with reading(f"a {kind(network)} with these options", "compare its configuration with the source"):
        expected = jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"]
    return {_text(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(expected)}


def nest(flat: Mapping[str, Any]) -> dict:
    """Nest values by the parts of their paths: {"a/b": v} becomes {"a": {"b": v}}.

    Raises:
      Refused: a path that is the beginning of another path.
    """
    tree: dict = {}
    for path in flat:
        *modules, leaf = path.split("/")
        node = tree
        for module in modules:
            node = node.setdefault(module, {})
            if not isinstance(node, dict):
                break
        if not isinstance(node, dict) or leaf in node:
            raise Refused(f"{path[:200]} is both an array and a folder of arrays; the file is damaged")
        node[leaf] = flat[path]
    return tree


def place_of(key: str, wanted: Mapping[str, str]) -> Place | None:
    """Find the parameter for the tensor `key`, or None; `wanted` maps each `flat` name to the path of a parameter."""
    module, _, name = key.rpartition(".")
    stem = flat(module)
    places: list[tuple[str, int | None]] = [(stem, None)]
    for match in STACKS.finditer(stem):
        places.append((stem[: match.start(2)].removesuffix("_") + stem[match.end(2) :], int(match[2])))
    for stem, row in places:
        for leaf in ("kernel", "scale", "embedding") if name == "weight" else (name.removeprefix("running_"),):
            path = wanted.get(f"{stem}_{leaf}" if stem else leaf)
            if path is not None:
                return Place(path, row)
    return None


def flat(name: str) -> str:
    """Write a path of modules as one word: PyTorch's dots and Flax's slashes become underscores."""
    return name.replace(".", "_").replace("/", "_")


def arrange(a: np.ndarray, path: str, rank: int) -> np.ndarray:
    """Convert a tensor from PyTorch's layout to that of the parameter at `path`, which has `rank` axes."""
    *modules, leaf = path.split("/")
    if leaf == "kernel":
        if a.ndim == 4 and rank == 4:
            return a.transpose(2, 3, 1, 0)
        if a.ndim >= 2:  # a linear map, or a convolution of single pixels or of patches that do not overlap
            return a.reshape(len(a), -1).T
    # OpenAI's attention pool has its embedding transposed; GLIDE's embedding, outside any module, is not
    if leaf == "positional_embedding" and modules:
        return a.T
    return a[0] if a.ndim == rank + 1 and a.shape[0] == 1 else a


def kind(network: Any) -> str:
    return type(network).__name__


def _text(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _torch_shape(found: tuple[int, ...], flax: tuple[int, ...]) -> tuple[int, ...]:
    """Return the Flax shape `flax` in PyTorch's order; the rank of `found` tells a linear map from a convolution."""
    if len(flax) == 4:
        return (flax[3], flax[2], flax[0], flax[1])
    return (*flax[::-1], *(1,) * (len(found) - 2)) if len(flax) == 2 else flax
