"""From a checkpoint to the denoiser, classifier or judge that it holds."""

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

import jax

from guidance_jax.checkpoints.config import build, read_config
from guidance_jax.checkpoints.store import read_params
from guidance_jax.core import Refused
from guidance_jax.discrete.network import HiddenNetwork
from guidance_jax.models.network import Network, NoisyClassifier
from guidance_jax.networks.judge import Judge, TrainedJudge
from guidance_jax.networks.sequence_models import language_model, prefix_classifier, token_classifier, token_model
from guidance_jax.networks.transformer import GPT2, Transformer
from guidance_jax.text.language_model import LanguageModel
from guidance_jax.text.prefix import PrefixClassifier

T = TypeVar("T", Network, NoisyClassifier, TrainedJudge, HiddenNetwork, LanguageModel, PrefixClassifier)


def load(directory: str | Path, kind: type[T], dtype: str | None = None, remat: bool = False) -> T:
    """The `kind` of network in a checkpoint, with its EMA parameters, its parameterization and its domain.

    Args:
      directory: written by training, `save_params` or `guidance_jax convert`, on any number of devices.
      kind: what to expect, `Network` or `NoisyClassifier` for example.
      dtype: the type in which the network computes, such as "bfloat16"; parameters and guidance stay float32.
      remat: compute residual blocks again in gradients through the network, which then need less memory.

    Raises:
      Refused: a missing, foreign, damaged or unfinished checkpoint, or one of another kind.
    """
    found = read_config(directory)
    network, domain = build(found["network"]), build(found["domain"])
    changes = ({"dtype": jax.numpy.dtype(dtype)} if dtype else {}) | ({"remat": True} if remat else {})
    for field in changes:
        if field not in {f.name for f in dataclasses.fields(network)}:
            raise Refused(f"{directory} holds a {type(network).__name__}, which has no choice of {field}")
    network = dataclasses.replace(network, **changes) if changes else network
    params = jax.tree.map(jax.numpy.asarray, read_params(directory))
    loaded: Any
    process = build(found.get("process"))
    if isinstance(network, Judge):
        loaded = TrainedJudge(params, network.apply)
    elif isinstance(network, GPT2):
        if network.outputs:
            loaded = prefix_classifier(network, params)
        else:
            loaded = language_model(network, params, process.first, domain)
    elif isinstance(network, Transformer):
        own = process is None
        loaded = token_classifier(network, params, domain) if own else token_model(network, params, process, domain)
    elif found["parameterization"] is None:
        loaded = NoisyClassifier(params, network.apply, domain)
    else:
        loaded = Network(params, network.apply, build(found["parameterization"]), domain)
    if not isinstance(loaded, kind):
        raise Refused(
            f"{directory} holds a {type(loaded).__name__}, expected a {kind.__name__}; pass the folder of that"
        )
    return loaded
