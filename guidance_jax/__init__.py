"""Guidance for diffusion models in JAX: denoisers guided by classifiers, contrasts and gradients, in one jitted scan.

>>> import jax.numpy as jnp
>>> import guidance_jax as gj
>>> target = gj.GaussianMixture(means=jnp.array([[2.0, 0.0], [-1.0, 1.5]]), std=0.5, weights=jnp.array([0.7, 0.3]))
>>> guided = gj.Classifier(gj.Unconditional(target, None), target.log_posterior, scale=1.0)
>>> levels = gj.schedules.log_snr_uniform(gj.Cosine(), 50, lo=0.01)
>>> gj.generate(gj.keys(0, 4), gj.Reverse(guided, gj.DDIM()), levels, (2,), jnp.array([0, 1, 0, 1])).shape
(4, 2)

The most used names are here. The others are in these modules:

    schedules  parameterizations  models  solvers  guidance  operators  inverse  kernels  particles  resampling
    search  automata  discrete  text  embeddings  flows  oracles  diagnostics  zoo  examples

and in `core`, for methods of your own.
"""

from guidance_jax import (
    automata,
    core,
    diagnostics,
    discrete,
    embeddings,
    flows,
    guidance,
    inverse,
    kernels,
    models,
    operators,
    oracles,
    particles,
    schedules,
    search,
    solvers,
    text,
    zoo,
)
from guidance_jax.checkpoints.config import register
from guidance_jax.core import Denoiser, Guide, Kernel, Level, Move, Prediction, Refused, Solver, pytree, static
from guidance_jax.discrete import Absorbing, Ancestral, Infill, TokenNetwork, Uniform
from guidance_jax.guidance import (
    CFG,
    Autoguidance,
    Classifier,
    Clip,
    PerClass,
    PerSample,
    Reconstruction,
    Window,
)
from guidance_jax.kernels import Inpaint, MeanShift, Recur, Reverse
from guidance_jax.models import (
    Conditioned,
    Domain,
    Function,
    Network,
    NoisyClassifier,
    OnSchedule,
    Unconditional,
    as_function,
    from_equinox,
    from_linen,
    from_nnx,
    from_velocity,
    parameterizations,
)
from guidance_jax.oracles import GaussianMixture
from guidance_jax.particles import SMC, BestOf, Corrected, Steered, Twisted, populations, resampling
from guidance_jax.sample import generate, keys, sample
from guidance_jax.schedules import VE, Cosine, CosineBetas, LinearBetas, RectifiedFlow
from guidance_jax.sharding import generate_on, memory, sample_mesh
from guidance_jax.solvers import DDIM, DDPM, DPMSolver2M, Heun
from guidance_jax.text import LanguageModel, positions
from guidance_jax.zoo import examples
from guidance_jax.zoo.diffusers.folder import load_diffusers
from guidance_jax.zoo.load import load
from guidance_jax.zoo.networks import save

__version__ = "0.2.0"

__all__ = [
    # groups
    "automata",
    "core",
    "diagnostics",
    "discrete",
    "embeddings",
    "flows",
    "examples",
    "guidance",
    "inverse",
    "kernels",
    "models",
    "operators",
    "oracles",
    "parameterizations",
    "particles",
    "resampling",
    "schedules",
    "search",
    "solvers",
    "text",
    "zoo",
    # running
    "generate",
    "generate_on",
    "keys",
    "memory",
    "populations",
    "sample",
    "sample_mesh",
    # models
    "Conditioned",
    "Domain",
    "Function",
    "GaussianMixture",
    "LanguageModel",
    "Network",
    "NoisyClassifier",
    "OnSchedule",
    "TokenNetwork",
    "Unconditional",
    "as_function",
    "from_equinox",
    "from_linen",
    "from_nnx",
    "from_velocity",
    "load",
    "load_diffusers",
    "register",
    "save",
    # noise
    "Absorbing",
    "Cosine",
    "CosineBetas",
    "LinearBetas",
    "RectifiedFlow",
    "Uniform",
    "VE",
    "positions",
    # guidance
    "Autoguidance",
    "CFG",
    "Classifier",
    "Clip",
    "PerClass",
    "PerSample",
    "Reconstruction",
    "Window",
    # solvers and kernels
    "Ancestral",
    "DDIM",
    "DDPM",
    "DPMSolver2M",
    "Heun",
    "Infill",
    "Inpaint",
    "MeanShift",
    "Recur",
    "Reverse",
    # particles
    "BestOf",
    "Corrected",
    "SMC",
    "Steered",
    "Twisted",
    # for parts of your own
    "Denoiser",
    "Guide",
    "Kernel",
    "Level",
    "Move",
    "Prediction",
    "Refused",
    "Solver",
    "pytree",
    "static",
]
