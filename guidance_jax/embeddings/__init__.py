"""Gaussian diffusion of token embeddings: everything in `guidance/` and `solvers/` applies; here is what is special."""

from guidance_jax.embeddings.diffusion_lm import DiffusionLM
from guidance_jax.embeddings.network import EmbeddingNetwork, nearest
from guidance_jax.embeddings.rounded import Rounded

__all__ = ["DiffusionLM", "EmbeddingNetwork", "Rounded", "nearest"]
