"""Populations: guided samples with weights, so that they sample the target, and estimates of the evidence."""

from guidance_jax.particles import resampling
from guidance_jax.particles.best_of import BestOf
from guidance_jax.particles.corrected import Corrected
from guidance_jax.particles.gibbs import particle_gibbs
from guidance_jax.particles.lookahead import Lookahead, PosteriorMean
from guidance_jax.particles.particle_guidance import ParticleGuidance
from guidance_jax.particles.populations import Particles, populations
from guidance_jax.particles.smc import SMC, Population
from guidance_jax.particles.steering import Steered, difference, maximum, total
from guidance_jax.particles.twisted import Twisted

__all__ = [
    "BestOf",
    "Corrected",
    "Lookahead",
    "ParticleGuidance",
    "Particles",
    "Population",
    "PosteriorMean",
    "SMC",
    "Steered",
    "Twisted",
    "difference",
    "maximum",
    "particle_gibbs",
    "populations",
    "resampling",
    "total",
]
