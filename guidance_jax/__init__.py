"""Guidance for diffusion models in JAX: denoisers guided by classifiers, contrasts and gradients, in one jitted scan.

>>> import jax.numpy as jnp
>>> import guidance_jax as gj
>>> target = gj.GaussianMixture(means=jnp.array([[2.0, 0.0], [-1.0, 1.5]]), std=0.5, weights=jnp.array([0.7, 0.3]))
>>> guided = gj.Classifier(gj.Unconditional(target, None), target.log_posterior, scale=1.0)
>>> levels = gj.log_snr_uniform(gj.Cosine(), 50, lo=0.01)
>>> gj.generate(gj.keys(0, 4), gj.Reverse(guided, gj.DDIM()), levels, (2,), jnp.array([0, 1, 0, 1])).shape
(4, 2)
"""

from guidance_jax.core import Level, Prediction, pytree, static
from guidance_jax.guidance.autoguidance import Autoguidance
from guidance_jax.guidance.cfg import CFG
from guidance_jax.guidance.classifier import Classifier
from guidance_jax.guidance.clip import Clip, DynamicClip
from guidance_jax.guidance.rescale import Rescale
from guidance_jax.guidance.window import PerClass, Window
from guidance_jax.kernels.mean_shift import MeanShift
from guidance_jax.kernels.recur import Recur
from guidance_jax.kernels.reverse import Reverse
from guidance_jax.network import Domain, Function, Network, NoisyClassifier, OnSchedule, Unconditional
from guidance_jax.oracles import Gaussian, GaussianMixture
from guidance_jax.parameterizations import EDM, LearnedRange, eps, score, v, velocity, x0
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
from guidance_jax.solvers.ddim import DDIM
from guidance_jax.solvers.ddpm import DDPM, fixed_large, fixed_small, learned_range
from guidance_jax.solvers.dpm_2 import DPM2
from guidance_jax.solvers.dpm_2m import DPMSolver2M
from guidance_jax.solvers.dpm_2s import DPMSolver2S
from guidance_jax.solvers.heun import Heun
from guidance_jax.solvers.lms import LMS

__version__ = "0.1.0"

__all__ = [
    "Autoguidance",
    "CFG",
    "Classifier",
    "Clip",
    "Cosine",
    "CosineBetas",
    "DDIM",
    "DDPM",
    "DPM2",
    "DPMSolver2M",
    "DPMSolver2S",
    "Domain",
    "DynamicClip",
    "EDM",
    "Function",
    "Gaussian",
    "GaussianMixture",
    "Heun",
    "LMS",
    "LearnedRange",
    "Level",
    "LinearBetas",
    "LinearVP",
    "MeanShift",
    "Network",
    "NoisyClassifier",
    "OnSchedule",
    "PerClass",
    "Prediction",
    "RectifiedFlow",
    "Recur",
    "Rescale",
    "Reverse",
    "Unconditional",
    "VE",
    "Window",
    "eps",
    "fixed_large",
    "fixed_small",
    "generate",
    "karras",
    "keys",
    "learned_range",
    "log_snr_uniform",
    "pytree",
    "sample",
    "score",
    "static",
    "v",
    "velocity",
    "x0",
]
