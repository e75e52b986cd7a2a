"""Functions that turn the package's Flax transformers into denoisers, language models and classifiers."""

from typing import Any

from guidance_jax.core import Bound, Refused
from guidance_jax.discrete.density_ratio import NeighbourClassifier
from guidance_jax.discrete.network import HiddenNetwork
from guidance_jax.discrete.nos import ValueHead
from guidance_jax.discrete.process import Process
from guidance_jax.embeddings.network import EmbeddingNetwork
from guidance_jax.models.domain import Domain
from guidance_jax.models.network import NoisyClassifier
from guidance_jax.text.language_model import LanguageModel
from guidance_jax.text.prefix import PrefixClassifier
from guidance_jax.text.sequence import LeftToRight
from guidance_jax.zoo.transformer import GPT2, Transformer


def _encode(network, params, x, t, cond, previous=None):
    return network.apply(params, x, t, cond, previous, method="encode")


def _decode(network, params, h, t, cond):
    return network.apply(params, h, method="decode")


def token_model(
    network: Transformer, params: Any, process: Process, domain: Domain | None = None, given: str = "others"
) -> HiddenNetwork:
    """Return a `Transformer` as a denoiser of tokens with hidden states.

    Args:
      network: the module.
      params: its parameters, from `init` or from training.
      process: how tokens are corrupted.
      domain: what it was trained for; None checks nothing.
      given: what the logits mean under uniform noise, the same as in the training with `TokenDenoising`: "others", its
        default, or "all".
    """
    return HiddenNetwork(params, Bound(_encode, network), Bound(_decode, network), process, domain, given)


def _value(network, params, h):
    return network.apply(params, h, method="value")


def value_head(model: HiddenNetwork) -> ValueHead:
    """Return the value head that `model` was trained with, as a value for `NOS`.

    Raises:
      Refused: a model without a value head.
    """
    network = model.encode.module  # type: ignore[attr-defined]
    if not network.values:
        raise Refused("the model was trained without a value head; train it with value_weight > 0")
    return ValueHead(model.params, Bound(_value, network))


def _classify(network, params, x, t):
    return network.apply(params, network.apply(params, x, t, method="encode"), method="value")


def token_classifier(network: Transformer, params: Any, domain: Domain | None = None) -> NoisyClassifier:
    """Return a `Transformer` with `values` classes as a classifier of corrupted tokens, or of one-hot vectors.

    Args:
      network: the module.
      params: its parameters, from `init` or from training.
      domain: what it was trained for; None checks nothing.
    """
    return NoisyClassifier(params, Bound(_classify, network), domain, batched=False)


def _neighbours(network, classes, params, x, t):
    return network.apply(params, x, t).reshape(len(x), -1, classes)


def neighbour_classifier(network: Transformer, params: Any, classes: int) -> NeighbourClassifier:
    """Return a `Transformer` with V times `classes` outputs as a classifier of all neighbours of masked tokens.

    Args:
      network: the module.
      params: its parameters, from `init` or from training.
      classes: the number of classes.
    """
    return NeighbourClassifier(params, Bound(_neighbours, network, classes))


def embedding_model(network: Transformer, params: Any, table: Any, domain: Domain | None = None) -> EmbeddingNetwork:
    """Return a `Transformer` as a denoiser of embeddings by score interpolation, with hidden states.

    Args:
      network: the module.
      params: its parameters, from `init` or from training.
      table: the embeddings, (V, d).
      domain: what it was trained for; None checks nothing.
    """
    encode, decode = Bound(_encode, network), Bound(_decode, network)
    return EmbeddingNetwork(params, table, encode=encode, decode=decode, domain=domain)


def _step(network, params, token, position, cache, cond):
    return network.apply(params, token, position, cache, cond, method="step")


def _blank(network, length):
    return network.blank(length)


def language_model(network: GPT2, params: Any, first: int = 0, domain: Domain | None = None) -> LanguageModel:
    """Return a `GPT2` as a denoiser of the next token; every sequence starts with the token `first`.

    Args:
      network: the module.
      params: its parameters, from `init` or from training.
      first: the token that every sequence starts with.
      domain: what it was trained for; None checks nothing.
    """
    process = LeftToRight(network.vocabulary, first)
    return LanguageModel(params, Bound(_step, network), Bound(_blank, network), process, network.context, domain)


def _read(network, params, token, position, cache):
    logits, _, cache = network.apply(params, token, position, cache, method="step")
    return logits, cache


def _whole(network, params, x):
    return network.apply(params, x)[0]


def _empty(network, length):
    return network.blank(length)[0]


def prefix_classifier(network: GPT2, params: Any) -> PrefixClassifier:
    """Return a `GPT2` with `outputs` classes as a classifier of prefixes.

    Args:
      network: the module.
      params: its parameters, from `init` or from training.
    """
    return PrefixClassifier(
        params, Bound(_read, network), Bound(_empty, network), network.outputs, Bound(_whole, network)
    )
