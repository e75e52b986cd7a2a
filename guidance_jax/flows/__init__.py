"""Autoregressive flows: exact densities, sampling patch by patch, guidance of every step, and exact weights."""

from guidance_jax.flows.affine import AffineGuidance
from guidance_jax.flows.cache import CacheGuidance
from guidance_jax.flows.flow import AutoregressiveFlow
from guidance_jax.flows.importance import importance
from guidance_jax.flows.infill import InfillPatches
from guidance_jax.flows.jacobi import decode
from guidance_jax.flows.noise import remove_noise
from guidance_jax.flows.patches import NextPatch, OneBlock, Patches, PatchPrediction, patch_levels
from guidance_jax.flows.patchify import patchify, unpatchify
from guidance_jax.flows.solvers import DrawPatch, PatchByPatch

__all__ = [
    "AffineGuidance",
    "AutoregressiveFlow",
    "CacheGuidance",
    "DrawPatch",
    "InfillPatches",
    "NextPatch",
    "OneBlock",
    "PatchByPatch",
    "PatchPrediction",
    "Patches",
    "decode",
    "importance",
    "patch_levels",
    "patchify",
    "remove_noise",
    "unpatchify",
]
