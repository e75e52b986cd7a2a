"""The checks of arguments that all searches share."""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import Level, need
from guidance_jax.particles.best_of import BestOf
from guidance_jax.particles.smc import SMC
from guidance_jax.sample import prepare


def check_search(name: str, keys: Any, move: Any, levels: Level, shape: tuple[int, ...], cond: Any) -> tuple[Any, ...]:
    """Return (keys, move, levels, shape, cond) with strong types; raise `Refused` if `move` does not take the rest."""
    need(name, move, BestOf, "the move")
    population: Any
    keys, population, levels = prepare(keys, SMC(move), levels, (2, *shape), cond)  # refuses what any population would
    return keys, population.move, levels, tuple(shape), jax.tree.map(jnp.asarray, cond)
