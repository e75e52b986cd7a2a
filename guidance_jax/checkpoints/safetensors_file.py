"""Read safetensors files as NumPy arrays, one tensor at a time, if needed under other names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from guidance_jax.core import Refused
from guidance_jax.untrusted import file_at, reading


def package() -> Any:
    try:
        import safetensors
        import safetensors.numpy
    except ModuleNotFoundError:
        raise Refused('safetensors files need their package; pip install "guidance_jax[pretrained]"') from None
    return safetensors


class Lazy(Mapping):
    """A mapping name -> tensor that reads each tensor when it is looked up."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes by name, without reading the tensors."""
        raise NotImplementedError


class Tensors(Lazy):
    """Map names to the tensors of safetensors files; each is read when it is looked up, so memory holds one tensor.

    Raises:
      Refused: a missing, truncated or foreign file; a tensor that cannot be read; a name that two files contain.
    """

    def __init__(self, *paths: Path):
        self.files: dict[str, Any] = {}
        for path in paths:
            with reading(file_at(path), "it is truncated or not a safetensors file: fetch it again"):
                file = package().safe_open(path, framework="flax")
                names = file.keys()
            for name in names:
                if name in self.files:
                    raise Refused(f"{path} holds the tensor {name[:200]}, which another file also holds; remove one")
                self.files[name] = file

    def __getitem__(self, name):
        with reading(f"the tensor {name[:200]}"):
            return np.asarray(self.files[name].get_tensor(name))

    def __iter__(self):
        return iter(self.files)

    def __len__(self):
        return len(self.files)

    def __contains__(self, name):
        return name in self.files

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes by name, without reading the tensors."""
        with reading("the safetensors file"):
            return {name: tuple(file.get_slice(name).get_shape()) for name, file in self.files.items()}


class Renamed(Lazy):
    """Map new names to the tensors of `state`, by `names`: new name -> old name. Tensors are read when looked up."""

    def __init__(self, state: Mapping[str, Any], names: Mapping[str, str]):
        self.state, self.names = state, names

    def __getitem__(self, name):
        return self.state[self.names[name]]

    def __iter__(self):
        return iter(self.names)

    def __len__(self):
        return len(self.names)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes by new name."""
        found = shapes_of(self.state)
        return {new: found[old] for new, old in self.names.items()}


def shapes_of(state: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a state dict by name, without reading tensors from files."""
    if isinstance(state, Lazy):
        return state.shapes()
    return {name: tuple(np.shape(value)) for name, value in state.items()}
