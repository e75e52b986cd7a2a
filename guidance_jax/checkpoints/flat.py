"""Checkpoints with their parameters in one safetensors file: for exchange, and for converted weights of others.

DIR/config.json          the configuration, as `config.py` writes it
DIR/model.safetensors    the parameters, named by their path: params/out_2/kernel
"""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from guidance_jax.checkpoints.safetensors_file import Tensors, package
from guidance_jax.checkpoints.tensors import nest
from guidance_jax.core import Refused
from guidance_jax.files import write_whole

WEIGHTS = "model.safetensors"


def save_flat(directory: str | Path, params: Any, config: dict) -> None:
    """Write the parameters and the configuration of a network; `config` is the result of `config(...)`.

    Raises:
      Refused: a folder that is not empty; nothing is written.
    """
    directory = Path(directory)
    if directory.exists() and any(directory.iterdir()):
        raise Refused(f"{directory} is not empty; convert into another folder")
    leaves = jax.tree_util.tree_leaves_with_path(params)
    tensors = {"/".join(str(p.key) for p in path): np.asarray(leaf) for path, leaf in leaves}
    serialise = package().numpy.save
    write_whole(directory / WEIGHTS, lambda file: file.write(serialise(tensors)))
    write_whole(directory / "config.json", lambda file: file.write(json.dumps(config, indent=1).encode()))


def load_flat(directory: str | Path) -> Any:
    """Read the parameters that `save_flat` wrote, as nested dictionaries of NumPy arrays."""
    return nest(Tensors(Path(directory) / WEIGHTS))
