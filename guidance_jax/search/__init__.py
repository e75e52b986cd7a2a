"""Search by running the sampler many times: over trees of its steps, or over its start. The target is a `BestOf`."""

from guidance_jax.search.starts import Starts, climb, walk
from guidance_jax.search.trees import trees

__all__ = ["Starts", "climb", "trees", "walk"]
