"""Noise schedules, x_t = alpha(t) x_0 + sigma(t) eps, and grids of levels on them.

A schedule maps its clock `t` to a `Level` and a log-SNR, log(alpha^2 / sigma^2), back to `t`. Grids end with the clean
level (alpha 1, sigma 0). Schedules are hashable values without arrays: checkpoints store them, and `==` compares them.
"""

from guidance_jax.schedules.base import Schedule
from guidance_jax.schedules.betas import Betas, CosineBetas, LinearBetas, ScaledLinearBetas, respace
from guidance_jax.schedules.continuous import VE, Cosine, LinearVP, RectifiedFlow
from guidance_jax.schedules.grids import (
    GRIDS,
    align_your_steps,
    beta,
    dynamic_shift,
    grid,
    karras,
    log_snr_uniform,
    sgm_uniform,
    shifted,
    simple,
    spaced,
)

__all__ = [
    "Cosine",
    "CosineBetas",
    "Betas",
    "LinearBetas",
    "LinearVP",
    "RectifiedFlow",
    "ScaledLinearBetas",
    "Schedule",
    "VE",
    "GRIDS",
    "align_your_steps",
    "beta",
    "dynamic_shift",
    "grid",
    "karras",
    "log_snr_uniform",
    "respace",
    "sgm_uniform",
    "shifted",
    "simple",
    "spaced",
]
