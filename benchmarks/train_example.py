"""Trains the digits that ship with the package, in 4 minutes.  python -m benchmarks.train_example FOLDER"""

import json
import sys
from pathlib import Path

import jax
import numpy as np

from guidance_jax.app.recipe import Recipe, train
from guidance_jax.checkpoints.config import read_config
from guidance_jax.checkpoints.store import read_params
from guidance_jax.datasets.digits import digits
from guidance_jax.files import write_whole
from guidance_jax.zoo.examples import WEIGHTS

FOLDERS = {"model": "denoiser", "classifier": "classifier"}
TARGET = Path(__file__).parent.parent / "guidance_jax" / "zoo" / WEIGHTS


def store(models, path):
    """The denoiser and classifier of a folder of models as one file of half-precision weights."""
    arrays = {}
    found = {name: read_config(Path(models) / folder) for name, folder in FOLDERS.items()}
    for name, folder in FOLDERS.items():
        for where, leaf in jax.tree_util.tree_leaves_with_path(read_params(Path(models) / folder)):
            arrays["/".join((name, *(str(p.key) for p in where)))] = np.asarray(leaf, np.float16)
    config = {
        "model": found["model"]["network"],
        "classifier": found["classifier"]["network"],
        "domain": found["model"]["domain"],
        "classifier_domain": found["classifier"]["domain"],
        "parameterization": found["model"]["parameterization"],
    }
    write_whole(path, lambda file: np.savez_compressed(file, config=json.dumps(config), **arrays))


def main():
    recipe = Recipe(width=16, classifier_width=16, steps=3000, classifier_steps=1500)
    train(sys.argv[1], digits().split()[0], recipe, progress=True)
    store(sys.argv[1], TARGET)


if __name__ == "__main__":
    main()
