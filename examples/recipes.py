"""The recipe for token sequences: denoisers, noisy classifiers, language models and prefix classifiers, into folders.

Each trains, or loads what is already trained with the same settings on the same data.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from guidance_jax.app.recipe import fit_into
from guidance_jax.checkpoints.config import config, describe
from guidance_jax.datasets.sequences import Sequences
from guidance_jax.discrete.network import HiddenNetwork
from guidance_jax.discrete.process import Diffusion, Process
from guidance_jax.models.domain import Domain
from guidance_jax.models.network import NoisyClassifier
from guidance_jax.schedules import RectifiedFlow, Schedule
from guidance_jax.text.language_model import LanguageModel
from guidance_jax.text.prefix import PrefixClassifier
from guidance_jax.text.sequence import LeftToRight
from guidance_jax.training.token_losses import NextTokenLoss, NoisyTokens, Prefixes, TokenDenoising
from guidance_jax.zoo.load import load
from guidance_jax.zoo.sequence_models import token_classifier
from guidance_jax.zoo.transformer import GPT2, Transformer

FLOW = RectifiedFlow()


def _train(
    kind: type[Any],
    directory: str | Path,
    title: str | None,
    network: Any,
    domain: Domain,
    loss: Callable,
    inputs: tuple,
    data: Sequences,
    *,
    rate: float = 2e-3,
    process: Process | None = None,
    steps: int,
    batch: int,
    seed: int,
    **about: Any,
) -> Any:
    """Train `network`, whose parameters `init(key, *inputs)` makes, into `directory`, and load it as a `kind`."""
    fit_into(
        Path(directory),
        config(network, domain, process=process, steps=steps, batch=batch, seed=seed, **about),
        loss,
        lambda key: network.init(key, *inputs),
        data,
        batch=batch,
        steps=steps,
        rate=rate,
        seed=seed,
        progress=title,
    )
    return load(directory, kind)


def train_tokens(
    directory: str | Path,
    data: Sequences,
    process: Diffusion,
    *,
    width: int = 64,
    depth: int = 3,
    steps: int = 1500,
    batch: int = 256,
    dropout: float = 0.15,
    value_weight: float = 0.0,
    seed: int = 0,
    schedule: Schedule = FLOW,
    progress: bool = False,
) -> HiddenNetwork:
    """A conditional denoiser of tokens with conditioning dropout; `value_weight` > 0 adds a value head on the label."""
    classes, length = len(data.names), data.shape[0]
    network = Transformer(
        process.states,
        process.vocabulary,
        length,
        width=width,
        depth=depth,
        num_classes=classes + 1,
        values=classes if value_weight > 0 else 0,
        decoder=1,
    )
    domain = Domain((length,), schedule, classes, null_label=classes)
    loss = TokenDenoising(network.apply, process, schedule, null=classes, dropout=dropout, value_weight=value_weight)
    inputs = jnp.zeros(length, jnp.int32), jnp.zeros(()), jnp.zeros((), jnp.int32)
    title = "token model      " if progress else None
    about: dict[str, Any] = dict(steps=steps, batch=batch, seed=seed, dropout=dropout, value_weight=value_weight)
    return _train(
        HiddenNetwork, directory, title, network, domain, loss, inputs, data, rate=3e-3, process=process, **about
    )


def train_token_classifier(
    directory: str | Path,
    data: Sequences,
    process: Diffusion,
    *,
    width: int = 64,
    depth: int = 2,
    steps: int = 1200,
    batch: int = 256,
    seed: int = 1,
    schedule: Schedule = FLOW,
    progress: bool = False,
) -> NoisyClassifier:
    """A classifier of corrupted tokens."""
    length = data.shape[0]
    network = Transformer(process.states, process.vocabulary, length, width=width, depth=depth, values=len(data.names))
    domain = Domain((length,), schedule, len(data.names))
    loss = NoisyTokens(token_classifier(network, None).apply, process, schedule)
    inputs = jnp.zeros(length, jnp.int32), jnp.zeros(())
    title = "noisy classifier " if progress else None
    about: dict[str, Any] = dict(steps=steps, batch=batch, seed=seed, corruption=describe(process))
    return _train(NoisyClassifier, directory, title, network, domain, loss, inputs, data, **about)


def train_language_model(
    directory: str | Path,
    data: Sequences,
    *,
    width: int = 128,
    depth: int = 3,
    steps: int = 1500,
    batch: int = 64,
    dropout: float = 0.2,
    seed: int = 0,
    progress: bool = False,
) -> LanguageModel:
    """A conditional GPT-2 with conditioning dropout; sequences start with, and are filled up by, token 0."""
    classes, length = len(data.names), data.shape[0]
    network = GPT2(len(data.alphabet), length, width=width, depth=depth, num_classes=classes + 1)
    domain = Domain((length,), num_classes=classes, null_label=classes)
    loss = NextTokenLoss(network.apply, null=classes, dropout=dropout, end=0)
    inputs = jnp.zeros(length, jnp.int32), jnp.zeros((), jnp.int32)
    title = "language model   " if progress else None
    about: dict[str, Any] = dict(
        process=LeftToRight(len(data.alphabet)), steps=steps, batch=batch, seed=seed, dropout=dropout
    )
    return _train(LanguageModel, directory, title, network, domain, loss, inputs, data, **about)


def train_prefix_classifier(
    directory: str | Path,
    data: Sequences,
    *,
    width: int = 64,
    depth: int = 1,
    steps: int = 600,
    batch: int = 64,
    seed: int = 1,
    progress: bool = False,
) -> PrefixClassifier:
    """p(label | prefix), learned at every prefix."""
    length = data.shape[0]
    network = GPT2(len(data.alphabet), length, width=width, depth=depth, outputs=len(data.names))
    domain, inputs = Domain((length,), num_classes=len(data.names)), (jnp.zeros(length, jnp.int32),)
    loss = Prefixes(network.apply, end=0)
    title = "prefix classifier" if progress else None
    about: dict[str, Any] = dict(steps=steps, batch=batch, seed=seed)
    return _train(PrefixClassifier, directory, title, network, domain, loss, inputs, data, **about)
