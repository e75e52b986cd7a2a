"""Whole models of latents: what stands beside a denoiser, and all of it as one object."""

from guidance_jax.zoo.latent import Autoencoder, TextEncoder
from guidance_jax.zoo.pipeline import Pipeline
from guidance_jax.zoo.tokenizer import Tokenizer

__all__ = ["Autoencoder", "Pipeline", "TextEncoder", "Tokenizer"]
