"""Search by running the sampler many times: trees of its steps, and its start. All aim at what `BestOf` says."""

from guidance_jax.search.starts import Starts, climb, walk
from guidance_jax.search.trees import trees

__all__ = ["Starts", "climb", "trees", "walk"]
