"""Training: losses for one sample, and the training loop `fit`."""

from guidance_jax.training.distillation import Distillation, TrajectoryDistillation
from guidance_jax.training.fit import fit, mirrored
from guidance_jax.training.flow_loss import FlowLikelihood
from guidance_jax.training.guidance_free import GuidanceFree
from guidance_jax.training.internal_heads import InternalHeads
from guidance_jax.training.losses import Denoising, JudgeCrossEntropy, LogNormal, NoisyCrossEntropy
from guidance_jax.training.model_guidance import ModelGuidance
from guidance_jax.training.token_losses import (
    DensityRatioMatching,
    EndToEnd,
    Interpolation,
    NextTokenLoss,
    NoisyTokens,
    Prefixes,
    TokenDenoising,
    Unrolled,
)

__all__ = [
    "Denoising",
    "DensityRatioMatching",
    "Distillation",
    "FlowLikelihood",
    "EndToEnd",
    "GuidanceFree",
    "InternalHeads",
    "Interpolation",
    "JudgeCrossEntropy",
    "LogNormal",
    "ModelGuidance",
    "NextTokenLoss",
    "NoisyCrossEntropy",
    "NoisyTokens",
    "Prefixes",
    "TokenDenoising",
    "TrajectoryDistillation",
    "Unrolled",
    "fit",
    "mirrored",
]
