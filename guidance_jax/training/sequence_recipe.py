"""The recipe for token sequences: denoisers, noisy classifiers, language models and prefix classifiers, into folders.

Each trains, or loads what is already trained with the same settings on the same data.
"""

from pathlib import Path

import jax.numpy as jnp

from guidance_jax.autoregressive.classifier import PrefixClassifier
from guidance_jax.autoregressive.language_model import LanguageModel
from guidance_jax.autoregressive.sequence import LeftToRight
from guidance_jax.datasets.sequences import Sequences
from guidance_jax.discrete.network import HiddenNetwork
from guidance_jax.discrete.process import Diffusion
from guidance_jax.domain import Domain
from guidance_jax.network import NoisyClassifier
from guidance_jax.networks.sequence_models import token_classifier
from guidance_jax.networks.transformer import GPT2, Transformer
from guidance_jax.schedules import RectifiedFlow, Schedule
from guidance_jax.training.checkpoint import config, load
from guidance_jax.training.recipe import fit_into
from guidance_jax.training.token_losses import NextToken, NoisyTokens, Prefixes, TokenDenoising

FLOW = RectifiedFlow()


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
    about = dict(steps=steps, batch=batch, dropout=dropout, value_weight=value_weight, seed=seed)
    loss = TokenDenoising(network.apply, process, schedule, classes, dropout, value_weight=value_weight)
    zero = jnp.zeros((), jnp.int32)
    fit_into(
        Path(directory),
        config(network, domain, process=process, **about),
        loss,
        lambda key: network.init(key, jnp.zeros(length, jnp.int32), jnp.zeros(()), zero),
        data,
        batch=batch,
        steps=steps,
        rate=3e-3,
        seed=seed,
        progress="token model      " if progress else None,
    )
    return load(directory, HiddenNetwork)


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
    zeros = jnp.zeros(length, jnp.int32)
    fit_into(
        Path(directory),
        config(network, Domain((length,), schedule, len(data.names)), steps=steps, batch=batch, seed=seed),
        NoisyTokens(token_classifier(network, None).apply, process, schedule),
        lambda key: network.init(key, zeros, jnp.zeros(())),
        data,
        batch=batch,
        steps=steps,
        rate=2e-3,
        seed=seed,
        progress="noisy classifier " if progress else None,
    )
    return load(directory, NoisyClassifier)


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
    zeros = jnp.zeros(length, jnp.int32)
    fit_into(
        Path(directory),
        config(
            network,
            domain,
            process=LeftToRight(len(data.alphabet)),
            steps=steps,
            batch=batch,
            dropout=dropout,
            seed=seed,
        ),
        NextToken(network.apply, classes, dropout, end=0),
        lambda key: network.init(key, zeros, jnp.zeros((), jnp.int32)),
        data,
        batch=batch,
        steps=steps,
        rate=2e-3,
        seed=seed,
        progress="language model   " if progress else None,
    )
    return load(directory, LanguageModel)


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
    zeros = jnp.zeros(length, jnp.int32)
    fit_into(
        Path(directory),
        config(network, Domain((length,), num_classes=len(data.names)), steps=steps, batch=batch, seed=seed),
        Prefixes(network.apply, end=0),
        lambda key: network.init(key, zeros),
        data,
        batch=batch,
        steps=steps,
        rate=2e-3,
        seed=seed,
        progress="prefix classifier" if progress else None,
    )
    return load(directory, PrefixClassifier)
