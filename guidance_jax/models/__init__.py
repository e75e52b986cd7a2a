"""Denoisers and classifiers made from networks of any library, and descriptions of what they were trained for."""

from guidance_jax.models import parameterizations
from guidance_jax.models.adapters import Conditioned, Microbatched, OnSchedule, Unconditional
from guidance_jax.models.constructors import from_equinox, from_linen, from_nnx, from_velocity
from guidance_jax.models.domain import Domain
from guidance_jax.models.export import as_function
from guidance_jax.models.flow_map import FlowMap
from guidance_jax.models.network import Function, Network, NoisyClassifier
from guidance_jax.models.two_headed import TwoHeaded

__all__ = [
    "Conditioned",
    "Domain",
    "FlowMap",
    "Function",
    "Microbatched",
    "Network",
    "NoisyClassifier",
    "OnSchedule",
    "TwoHeaded",
    "Unconditional",
    "as_function",
    "from_equinox",
    "from_linen",
    "from_nnx",
    "from_velocity",
    "parameterizations",
]
