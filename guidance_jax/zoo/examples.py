"""Trained networks that ship with the package, for a first picture, tutorials and tests on two CPU cores.

Trained by `python -m benchmarks train_example` on four fifths of scikit-learn's digits (Alpaydin & Kaynak 1998).
"""

import json
from importlib.resources import files
from typing import Any

import jax.numpy as jnp
import numpy as np

from guidance_jax.checkpoints.config import build
from guidance_jax.models.network import Network, NoisyClassifier

WEIGHTS = "weights/digits.npz"


def digits() -> tuple[Network, NoisyClassifier]:
    """(model, classifier): a small ADM U-Net trained with conditioning dropout, and log p(y | x_t).

    Samples are (8, 8, 1) in [-1, 1], labels 0 to 9, the null label is 10, the schedule `Cosine()`.
    """
    with files("guidance_jax.zoo").joinpath(WEIGHTS).open("rb") as file, np.load(file) as stored:
        config = json.loads(str(stored["config"]))
        trees: dict[str, Any] = {"model": {}, "classifier": {}}
        for name in stored.files:
            which, *path = name.split("/")
            if which in trees:
                node = trees[which]
                for part in path[:-1]:
                    node = node.setdefault(part, {})
                node[path[-1]] = jnp.asarray(stored[name], jnp.float32)
    unet, classifier = build(config["model"]), build(config["classifier"])
    domain, guided = build(config["domain"]), build(config["classifier_domain"])
    parameterization = build(config["parameterization"])
    return (
        Network(trees["model"], unet.apply, parameterization, domain, batched=False),
        NoisyClassifier(trees["classifier"], classifier.apply, guided, batched=False),
    )
