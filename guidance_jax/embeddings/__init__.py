"""Gaussian diffusion of token embeddings: what is needed beyond `guidance/` and `solvers/`, which apply to it too."""

from guidance_jax.embeddings.diffusion_lm import DiffusionLM
from guidance_jax.embeddings.network import EmbeddingNetwork, nearest
from guidance_jax.embeddings.rounded import Rounded

__all__ = ["DiffusionLM", "EmbeddingNetwork", "Rounded", "nearest"]
