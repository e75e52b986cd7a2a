"""Time warping (Dieleman et al. 2022, arXiv 2211.15089, section 3.3): train where the loss still changes.

The levels are drawn so that the loss, as a function of the drawn rank, is a straight line.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import Refused
from guidance_jax.schedules import Schedule


@dataclass(frozen=True)
class TimeWarp:
    """A distribution of clocks t with a piecewise linear distribution function: called as `warp(key, schedule) ->
    Level`.

    Attributes:
      times: rising clocks. ranks: the distribution function there, from 0 to 1.
    """

    times: tuple[float, ...]
    ranks: tuple[float, ...]

    @classmethod
    def fit(cls, times: Any, losses: Any, bins: int = 20, floor: float = 0.1) -> "TimeWarp":
        """From losses (n,) at clocks (n,): density in proportion to the slope of the (rising) mean loss, at least
        `floor` of a uniform one.

        Raises:
          Refused: fewer than two losses a bin, or losses that are not finite.
        """
        times, losses = np.asarray(times, np.float64), np.asarray(losses, np.float64)
        if len(times) < 2 * bins or not np.isfinite(losses).all():
            raise Refused(f"a warp of {bins} bins takes at least {2 * bins} finite losses, got {len(times)}")
        order = np.argsort(times)
        groups = np.array_split(order, bins)
        centre = np.asarray([times[g].mean() for g in groups])
        level = np.maximum.accumulate([losses[g].mean() for g in groups])
        edges = np.r_[times.min(), (centre[1:] + centre[:-1]) / 2, times.max()]
        rises = np.interp(edges, centre, level)
        mass = np.diff(rises)
        widths = np.diff(edges) / (edges[-1] - edges[0])
        mass = mass / mass.sum() if mass.sum() > 0 else widths
        mass = (1 - floor) * mass + floor * widths
        ranks = np.r_[0, np.cumsum(mass)]
        return cls(tuple(map(float, edges)), tuple(map(float, ranks / ranks[-1])))

    def __call__(self, key: Any, schedule: Schedule) -> Any:
        rank = jax.random.uniform(key)
        return schedule(jnp.interp(rank, jnp.asarray(self.ranks), jnp.asarray(self.times)))

    def levels(self, schedule: Schedule, steps: int) -> Any:
        """`steps + 1` levels for sampling, uniform in rank, down to the clean level."""
        ranks = jnp.linspace(1.0, 0.0, steps + 1)
        t = jnp.interp(ranks, jnp.asarray(self.ranks), jnp.asarray(self.times))
        return schedule(t.at[-1].set(0.0))
