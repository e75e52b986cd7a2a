"""Solvers move a sample from one noise level to the next."""

from guidance_jax.solvers.ddim import DDIM
from guidance_jax.solvers.ddpm import DDPM, fixed_large, fixed_small, learned_range
from guidance_jax.solvers.dpm_2 import DPM2
from guidance_jax.solvers.dpm_2m import DPMSolver2M
from guidance_jax.solvers.dpm_2s import DPMSolver2S
from guidance_jax.solvers.dpm_3m import DPMSolver3M
from guidance_jax.solvers.fresh_noise import FreshNoise
from guidance_jax.solvers.glass import GLASS
from guidance_jax.solvers.heun import Heun
from guidance_jax.solvers.lms import LMS
from guidance_jax.solvers.sa_solver import SASolver
from guidance_jax.solvers.unipc import UniPC

__all__ = [
    "DDIM",
    "DDPM",
    "GLASS",
    "DPM2",
    "DPMSolver2M",
    "DPMSolver2S",
    "DPMSolver3M",
    "FreshNoise",
    "Heun",
    "LMS",
    "SASolver",
    "UniPC",
    "fixed_large",
    "fixed_small",
    "learned_range",
]
