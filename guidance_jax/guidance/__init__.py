"""Guidance methods, one per file: each makes a guided denoiser from a denoiser. Also guides of clean samples."""

from guidance_jax.guidance.adaptive import AdaptiveGuidance
from guidance_jax.guidance.apg import APG
from guidance_jax.guidance.attention import AttentionContrast, ReadsCaptions, guide_attention
from guidance_jax.guidance.autoguidance import Autoguidance
from guidance_jax.guidance.base import Contrast, Guidance
from guidance_jax.guidance.cfg import CFG
from guidance_jax.guidance.cfg_plus_plus import CFGPlusPlus
from guidance_jax.guidance.cfg_zero_star import CFGZeroStar
from guidance_jax.guidance.classifier import Classifier
from guidance_jax.guidance.clip import Clip, DynamicClip
from guidance_jax.guidance.compose import Compose
from guidance_jax.guidance.conditions import TwoConditions
from guidance_jax.guidance.dynamic_negative import DynamicNegative
from guidance_jax.guidance.faster_cache import FasterCache
from guidance_jax.guidance.fdg import FDG
from guidance_jax.guidance.implicit import ImplicitClassifier
from guidance_jax.guidance.internal import Internal
from guidance_jax.guidance.learned import Learned
from guidance_jax.guidance.lgd import LGD
from guidance_jax.guidance.likelihoods import CleanClassifier, Decoded, GaussianLikelihood, Similarity
from guidance_jax.guidance.mambo_g import MAMBOG
from guidance_jax.guidance.mpgd import MPGD
from guidance_jax.guidance.perturbed import Perturbation, Perturbed, perturb
from guidance_jax.guidance.reconstruction import Reconstruction
from guidance_jax.guidance.rescale import Rescale
from guidance_jax.guidance.reuse import Reuse
from guidance_jax.guidance.scales import PerClass, PerSample, Ramp, Scale, Window
from guidance_jax.guidance.tcfg import TCFG
from guidance_jax.guidance.tempered import Tempered
from guidance_jax.guidance.tfg import TFG
from guidance_jax.guidance.through_map import ThroughMap
from guidance_jax.guidance.universal import Universal

__all__ = [
    "APG",
    "AdaptiveGuidance",
    "Autoguidance",
    "CFG",
    "CFGPlusPlus",
    "CFGZeroStar",
    "Classifier",
    "CleanClassifier",
    "Clip",
    "Compose",
    "Contrast",
    "Decoded",
    "DynamicClip",
    "DynamicNegative",
    "FDG",
    "FasterCache",
    "GaussianLikelihood",
    "Guidance",
    "ImplicitClassifier",
    "Internal",
    "LGD",
    "Learned",
    "MAMBOG",
    "MPGD",
    "PerClass",
    "PerSample",
    "AttentionContrast",
    "Perturbation",
    "ReadsCaptions",
    "guide_attention",
    "Perturbed",
    "Ramp",
    "Reconstruction",
    "Rescale",
    "Reuse",
    "Scale",
    "Similarity",
    "TCFG",
    "TFG",
    "TwoConditions",
    "Tempered",
    "ThroughMap",
    "Universal",
    "Window",
    "perturb",
]
