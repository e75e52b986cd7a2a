"""Published networks, one folder per family, and pipelines: a denoiser with its autoencoder and text encoders."""

from guidance_jax.zoo.adm.network import ADMClassifier, ADMUNet
from guidance_jax.zoo.convert import convert, read_state, recognize
from guidance_jax.zoo.dit.network import DiT
from guidance_jax.zoo.gpt2.reader import load_gpt2
from guidance_jax.zoo.latent import Autoencoder, TextEncoder
from guidance_jax.zoo.pipeline import Pipeline
from guidance_jax.zoo.sequence_models import (
    embedding_model,
    language_model,
    neighbour_classifier,
    prefix_classifier,
    token_classifier,
    token_model,
    value_head,
)
from guidance_jax.zoo.state_dict import Options, Recognized
from guidance_jax.zoo.tokenizer import Tokenizer
from guidance_jax.zoo.transformer import GPT2, Transformer

__all__ = [
    "ADMClassifier",
    "ADMUNet",
    "Autoencoder",
    "DiT",
    "GPT2",
    "Options",
    "Pipeline",
    "Recognized",
    "TextEncoder",
    "Tokenizer",
    "Transformer",
    "convert",
    "embedding_model",
    "language_model",
    "load_gpt2",
    "neighbour_classifier",
    "prefix_classifier",
    "read_state",
    "recognize",
    "token_classifier",
    "token_model",
    "value_head",
]
