"""Checkpoints that describe their network, and readers of weight files that never run code from a file."""

from guidance_jax.checkpoints.config import config, read_config, register
from guidance_jax.checkpoints.safetensors_file import Renamed, Tensors
from guidance_jax.checkpoints.store import Run, read_params, save_params
from guidance_jax.checkpoints.tensors import match_params
from guidance_jax.checkpoints.torch_file import read_torch

__all__ = [
    "Renamed",
    "Run",
    "Tensors",
    "config",
    "match_params",
    "read_config",
    "read_params",
    "read_torch",
    "register",
    "save_params",
]
