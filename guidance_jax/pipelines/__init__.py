"""Whole models of latents: what stands beside a denoiser, and all of it as one object."""

from guidance_jax.pipelines.latent import Autoencoder, TextEncoder
from guidance_jax.pipelines.pipeline import Pipeline
from guidance_jax.pipelines.tokenizer import Tokenizer

__all__ = ["Autoencoder", "Pipeline", "TextEncoder", "Tokenizer"]
