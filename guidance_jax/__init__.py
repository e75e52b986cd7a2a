"""Guidance for diffusion models in JAX: denoisers guided by classifiers, contrasts and gradients, in one jitted scan.

>>> import jax.numpy as jnp
>>> import guidance_jax as gj
>>> target = gj.GaussianMixture(means=jnp.array([[2.0, 0.0], [-1.0, 1.5]]), std=0.5, weights=jnp.array([0.7, 0.3]))
>>> guided = gj.Classifier(gj.Unconditional(target, None), target.log_posterior, scale=1.0)
>>> levels = gj.log_snr_uniform(gj.Cosine(), 50, lo=0.01)
>>> gj.generate(gj.keys(0, 4), gj.Reverse(guided, gj.DDIM()), levels, (2,), jnp.array([0, 1, 0, 1])).shape
(4, 2)
"""

from guidance_jax.adapters import Conditioned, Microbatched, OnSchedule, Unconditional
from guidance_jax.autoregressive.classifier import PrefixClassifier
from guidance_jax.autoregressive.contrastive import Contrastive
from guidance_jax.autoregressive.fudge import FUDGE
from guidance_jax.autoregressive.language_model import LanguageModel
from guidance_jax.autoregressive.markov import MarkovModel
from guidance_jax.autoregressive.pplm import PPLM
from guidance_jax.autoregressive.sequence import LeftToRight, positions
from guidance_jax.core import Level, Prediction, pytree, static
from guidance_jax.diagnostics.bias import guidance_bias
from guidance_jax.diagnostics.by_level import guidance_by_level
from guidance_jax.diagnostics.ledger import ledger
from guidance_jax.discrete.ancestral import Ancestral
from guidance_jax.discrete.ehrlich import Ehrlich
from guidance_jax.discrete.first_hitting import FirstHitting
from guidance_jax.discrete.forbid import Forbid
from guidance_jax.discrete.infill import Infill
from guidance_jax.discrete.lambo import LaMBO
from guidance_jax.discrete.mask_predict import MaskPredict
from guidance_jax.discrete.network import HiddenNetwork, TokenNetwork
from guidance_jax.discrete.nos import NOS
from guidance_jax.discrete.oracles import Enumerated
from guidance_jax.discrete.predictor import PredictorGuidance
from guidance_jax.discrete.predictor_free import PredictorFree
from guidance_jax.discrete.process import Absorbing, Uniform
from guidance_jax.discrete.sundae import SUNDAE
from guidance_jax.discrete.tag import TAG
from guidance_jax.discrete.tau_leap import TauLeap
from guidance_jax.domain import Domain
from guidance_jax.embeddings.diffusion_lm import DiffusionLM
from guidance_jax.embeddings.network import EmbeddingNetwork
from guidance_jax.embeddings.rounded import Rounded
from guidance_jax.guidance.adaptive import AdaptiveGuidance
from guidance_jax.guidance.apg import APG
from guidance_jax.guidance.autoguidance import Autoguidance
from guidance_jax.guidance.cfg import CFG
from guidance_jax.guidance.cfg_plus_plus import CFGPlusPlus
from guidance_jax.guidance.cfg_zero_star import CFGZeroStar
from guidance_jax.guidance.classifier import Classifier
from guidance_jax.guidance.clip import Clip, DynamicClip
from guidance_jax.guidance.compose import Compose
from guidance_jax.guidance.dynamic_negative import DynamicNegative
from guidance_jax.guidance.fdg import FDG
from guidance_jax.guidance.lgd import LGD
from guidance_jax.guidance.mambo_g import MAMBOG
from guidance_jax.guidance.mmps import MMPS
from guidance_jax.guidance.mpgd import MPGD
from guidance_jax.guidance.perturbed import Perturbed
from guidance_jax.guidance.pigdm import PiGDM
from guidance_jax.guidance.reconstruction import Reconstruction
from guidance_jax.guidance.rescale import Rescale
from guidance_jax.guidance.reuse import Reuse
from guidance_jax.guidance.tcfg import TCFG
from guidance_jax.guidance.tfg import TFG
from guidance_jax.guidance.tmpd import TMPD
from guidance_jax.guidance.universal import Universal
from guidance_jax.guidance.window import PerClass, Ramp, Window
from guidance_jax.implicit import ImplicitClassifier
from guidance_jax.kernels.corrector import Corrector
from guidance_jax.kernels.dps import DPS
from guidance_jax.kernels.inpaint import Inpaint
from guidance_jax.kernels.mean_shift import MeanShift
from guidance_jax.kernels.padded import Padded, padded
from guidance_jax.kernels.rectified_cfg import RectifiedCFGPlusPlus
from guidance_jax.kernels.recur import Recur
from guidance_jax.kernels.reverse import Reverse
from guidance_jax.kernels.split import Split
from guidance_jax.likelihoods import CleanClassifier, GaussianLikelihood, Similarity
from guidance_jax.network import Function, Network, NoisyClassifier, Perturbation, perturbed
from guidance_jax.operators import Blur, Downsample, Linear, Mask, check_adjoint
from guidance_jax.oracles import Gaussian, GaussianMixture
from guidance_jax.parameterizations import EDM, LearnedRange, eps, score, v, velocity, x0
from guidance_jax.particles.annealed import Annealed
from guidance_jax.particles.best_of import BestOf
from guidance_jax.particles.correctors import CorrectedCFG, CorrectedClassifier
from guidance_jax.particles.particle_guidance import ParticleGuidance
from guidance_jax.particles.populations import Particles, populations
from guidance_jax.particles.resample import multinomial, residual, stratified, systematic
from guidance_jax.particles.smc import SMC
from guidance_jax.particles.steering import Steered
from guidance_jax.particles.twisted import Twisted
from guidance_jax.particles.twisted_tokens import TwistedTokens
from guidance_jax.sample import generate, keys, sample
from guidance_jax.schedules import (
    VE,
    Cosine,
    CosineBetas,
    LinearBetas,
    LinearVP,
    RectifiedFlow,
    karras,
    log_snr_uniform,
)
from guidance_jax.sharding import generate_on, sample_mesh
from guidance_jax.solvers.ddim import DDIM
from guidance_jax.solvers.ddpm import DDPM, fixed_large, fixed_small, learned_range
from guidance_jax.solvers.dpm_2 import DPM2
from guidance_jax.solvers.dpm_2m import DPMSolver2M
from guidance_jax.solvers.dpm_2s import DPMSolver2S
from guidance_jax.solvers.heun import Heun
from guidance_jax.solvers.lms import LMS

__version__ = "0.1.0"

__all__ = [
    "APG",
    "Absorbing",
    "AdaptiveGuidance",
    "Ancestral",
    "Annealed",
    "Autoguidance",
    "BestOf",
    "Blur",
    "CFG",
    "CFGPlusPlus",
    "CFGZeroStar",
    "Classifier",
    "CleanClassifier",
    "Clip",
    "Compose",
    "Conditioned",
    "Contrastive",
    "CorrectedCFG",
    "CorrectedClassifier",
    "Corrector",
    "Cosine",
    "CosineBetas",
    "DDIM",
    "DDPM",
    "DPM2",
    "DPMSolver2M",
    "DPMSolver2S",
    "DPS",
    "DiffusionLM",
    "Domain",
    "Downsample",
    "DynamicClip",
    "DynamicNegative",
    "EDM",
    "Ehrlich",
    "EmbeddingNetwork",
    "Enumerated",
    "FDG",
    "FirstHitting",
    "Forbid",
    "FUDGE",
    "Function",
    "Gaussian",
    "GaussianLikelihood",
    "GaussianMixture",
    "Heun",
    "HiddenNetwork",
    "ImplicitClassifier",
    "Infill",
    "Inpaint",
    "LGD",
    "LMS",
    "LaMBO",
    "LanguageModel",
    "LearnedRange",
    "LeftToRight",
    "Level",
    "Linear",
    "LinearBetas",
    "LinearVP",
    "MAMBOG",
    "MMPS",
    "MPGD",
    "MarkovModel",
    "Mask",
    "MaskPredict",
    "MeanShift",
    "Microbatched",
    "NOS",
    "Network",
    "NoisyClassifier",
    "OnSchedule",
    "PPLM",
    "ParticleGuidance",
    "Particles",
    "PerClass",
    "Padded",
    "Perturbation",
    "Perturbed",
    "PiGDM",
    "Prediction",
    "PredictorFree",
    "PredictorGuidance",
    "PrefixClassifier",
    "Ramp",
    "Reconstruction",
    "RectifiedCFGPlusPlus",
    "RectifiedFlow",
    "Recur",
    "Rescale",
    "Reuse",
    "Reverse",
    "Rounded",
    "SMC",
    "SUNDAE",
    "Similarity",
    "Split",
    "Steered",
    "TAG",
    "TCFG",
    "TFG",
    "TMPD",
    "TauLeap",
    "TokenNetwork",
    "Twisted",
    "TwistedTokens",
    "Unconditional",
    "Uniform",
    "Universal",
    "VE",
    "Window",
    "check_adjoint",
    "eps",
    "fixed_large",
    "fixed_small",
    "generate",
    "generate_on",
    "guidance_bias",
    "guidance_by_level",
    "karras",
    "keys",
    "learned_range",
    "ledger",
    "log_snr_uniform",
    "multinomial",
    "padded",
    "perturbed",
    "populations",
    "positions",
    "pytree",
    "residual",
    "sample",
    "sample_mesh",
    "score",
    "static",
    "stratified",
    "systematic",
    "v",
    "velocity",
    "x0",
]
