"""Trained networks that ship with the package, for a first picture, tutorials and tests on two CPU cores.

Trained by `python -m benchmarks train_example`: on four fifths of scikit-learn's digits (Alpaydin & Kaynak 1998), and
on the 60,000 images of Fashion-MNIST (Xiao, Rasul & Vollgraf 2017, MIT licence).
"""

import json
from importlib.resources import files
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from guidance_jax.checkpoints.config import build
from guidance_jax.datasets.images import Images
from guidance_jax.models.network import Network, NoisyClassifier
from guidance_jax.zoo.judge import TrainedJudge

WEIGHTS = "weights"


class Example(NamedTuple):
    """A trained model, with a classifier that guides it and a judge that measures its samples.

    Attributes:
      model: a denoiser trained with conditioning dropout.
      classifier: the noisy classifier log p(y | x_t).
      judge: a classifier of clean images, which guides nothing.
      held_out: images that no network was trained on, with the names of the classes.
    """

    model: Network
    classifier: NoisyClassifier
    judge: TrainedJudge
    held_out: Images


def digits() -> tuple[Network, NoisyClassifier]:
    """Return (model, classifier) of the digits: a small ADM U-Net with conditioning dropout, and log p(y | x_t).

    Samples are (8, 8, 1) in [-1, 1], labels 0 to 9, the null label is 10, the schedule `Cosine()`.
    """
    config, arrays = read("digits")
    return model_and_classifier(config, arrays)


def fashion() -> Example:
    """Return a small ADM U-Net of Fashion-MNIST, its noisy classifier, a judge, and 1,000 held-out images.

    Samples are (28, 28, 1) in [-1, 1], labels 0 to 9 (`held_out.names`), the null label is 10, the schedule `Cosine()`.
    """
    config, arrays = read("fashion")
    judge = TrainedJudge(tree(arrays, "judge"), build(config["judge"]).apply)
    images = arrays["held_out/images"].astype(np.float32)[..., None] / 127.5 - 1
    held_out = Images(images, arrays["held_out/labels"].astype(np.int32), tuple(config["names"]))
    return Example(*model_and_classifier(config, arrays), judge, held_out)


def read(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return (configuration, arrays) of a file of weights, which are stored in half precision."""
    with files("guidance_jax.zoo").joinpath(f"{WEIGHTS}/{name}.npz").open("rb") as file, np.load(file) as stored:
        return json.loads(str(stored["config"])), {k: stored[k] for k in stored.files if k != "config"}


def tree(arrays: dict[str, np.ndarray], which: str) -> dict[str, Any]:
    """Return the parameters of the network `which`, in float32."""
    found: dict[str, Any] = {}
    for name, array in arrays.items():
        first, *path = name.split("/")
        if first == which:
            node = found
            for part in path[:-1]:
                node = node.setdefault(part, {})
            node[path[-1]] = jnp.asarray(array, jnp.float32)
    return found


def model_and_classifier(config: dict[str, Any], arrays: dict[str, np.ndarray]) -> tuple[Network, NoisyClassifier]:
    """Return the denoiser and the noisy classifier, which every file holds."""
    unet, classifier = build(config["model"]), build(config["classifier"])
    domain, guided, parameterization = (
        build(config[name]) for name in ("domain", "classifier_domain", "parameterization")
    )
    return (
        Network(tree(arrays, "model"), unet.apply, parameterization, domain, batched=False),
        NoisyClassifier(tree(arrays, "classifier"), classifier.apply, guided, batched=False),
    )
