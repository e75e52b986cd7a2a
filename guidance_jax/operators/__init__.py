"""Operators A of a measurement y = A x: ready ones, any function of one sample, and checks for your own.

>>> import jax.numpy as jnp
>>> from guidance_jax import operators
>>> half = operators.Downsample(2)
>>> half(jnp.ones((4, 4, 1))).shape, half.pinv(jnp.ones((2, 2, 1)), jnp.zeros((4, 4, 1))).shape
((2, 2, 1), (4, 4, 1))
"""

from guidance_jax.operators.base import SVD, Composed, Linear, Operator, check_adjoint, check_pinv
from guidance_jax.operators.linear import Blur, Downsample, Fourier, Mask, Radon
from guidance_jax.operators.matrices import Matrix, Separable
from guidance_jax.operators.nonlinear import JPEG, HighDynamicRange, Nonlinear, PhaseRetrieval

__all__ = [
    "Blur",
    "Composed",
    "Downsample",
    "Fourier",
    "HighDynamicRange",
    "JPEG",
    "Linear",
    "Mask",
    "Matrix",
    "Nonlinear",
    "Operator",
    "PhaseRetrieval",
    "Radon",
    "SVD",
    "Separable",
    "check_adjoint",
    "check_pinv",
]
