"""Inverse problems: draw samples that fit a measurement y = A x + noise. Each file holds one method.

The operators A are in `guidance_jax.operators`. Other methods can use a measurement through a guide: `LinearTwist`
here, or `guidance.GaussianLikelihood`.
"""

from guidance_jax.inverse.daps import DAPS
from guidance_jax.inverse.ddnm import DDNM
from guidance_jax.inverse.ddrm import DDRM
from guidance_jax.inverse.diffpir import DiffPIR
from guidance_jax.inverse.dpg import DPG
from guidance_jax.inverse.dps import DPS
from guidance_jax.inverse.enkg import EnKG
from guidance_jax.inverse.fps import FPS
from guidance_jax.inverse.likelihood_steps import ExactStep, GibbsStep, LangevinStep, LikelihoodStep
from guidance_jax.inverse.linear_twist import LinearTwist
from guidance_jax.inverse.mmps import MMPS
from guidance_jax.inverse.pigdm import PiGDM
from guidance_jax.inverse.psld import PSLD
from guidance_jax.inverse.red_diff import REDdiff
from guidance_jax.inverse.resample import ReSample
from guidance_jax.inverse.split_gibbs import SplitGibbs
from guidance_jax.inverse.tmpd import TMPD

__all__ = [
    "DAPS",
    "DDNM",
    "DDRM",
    "DPG",
    "DPS",
    "DiffPIR",
    "EnKG",
    "ExactStep",
    "FPS",
    "GibbsStep",
    "LangevinStep",
    "LikelihoodStep",
    "LinearTwist",
    "MMPS",
    "PSLD",
    "PiGDM",
    "REDdiff",
    "ReSample",
    "SplitGibbs",
    "TMPD",
]
