"""Losses that tune a trained model: to rewards, and to fewer steps."""

from guidance_jax.finetune.adjoint_matching import AdjointMatching
from guidance_jax.finetune.consistency import Consistency
from guidance_jax.finetune.draft import DRaFT
from guidance_jax.finetune.mean_flow import MeanFlow
from guidance_jax.finetune.nft import DiffusionNFT
from guidance_jax.finetune.policy_gradient import PolicyGradient

__all__ = [
    "AdjointMatching",
    "Consistency",
    "DRaFT",
    "DiffusionNFT",
    "MeanFlow",
    "PolicyGradient",
]
