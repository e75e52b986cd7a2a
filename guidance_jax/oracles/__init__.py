"""Exact models: every marginal, class posterior and guided target in closed form, or by enumeration."""

from guidance_jax.oracles.enumerated import Enumerated, monte_carlo_floor
from guidance_jax.oracles.gaussian import Bias, Gaussian, GaussianMixture
from guidance_jax.oracles.markov import MarkovModel

__all__ = ["Bias", "Enumerated", "Gaussian", "GaussianMixture", "MarkovModel", "monte_carlo_floor"]
