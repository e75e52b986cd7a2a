"""Kernels: reverse transitions from one level to the next, and wrappers that change them."""

from guidance_jax.kernels.churn import Churn
from guidance_jax.kernels.corrector import Corrector
from guidance_jax.kernels.descend import descend
from guidance_jax.kernels.edit import Edit
from guidance_jax.kernels.inpaint import Inpaint
from guidance_jax.kernels.map_steps import MapSteps
from guidance_jax.kernels.mean_shift import MeanShift
from guidance_jax.kernels.padded import Padded, pad_levels
from guidance_jax.kernels.rectified_cfg import RectifiedCFGPlusPlus
from guidance_jax.kernels.recur import Recur
from guidance_jax.kernels.reverse import Reverse
from guidance_jax.kernels.split import Split
from guidance_jax.kernels.svdd import SVDD

__all__ = [
    "Churn",
    "Corrector",
    "Edit",
    "Inpaint",
    "MapSteps",
    "MeanShift",
    "Padded",
    "RectifiedCFGPlusPlus",
    "Recur",
    "Reverse",
    "SVDD",
    "descend",
    "Split",
    "pad_levels",
]
