"""Bootstrap standard errors (Efron 1979)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from guidance_jax.core import Refused


class Estimate(NamedTuple):
    """A value and its bootstrap standard error."""

    value: float
    error: float

    def __str__(self):
        return f"{self.value:.3f} ± {self.error:.3f}"


def bootstrap(statistic: Callable[..., float], *samples: Any, repeats: int = 100, seed: int = 0) -> Estimate:
    """Return `statistic(*samples)` and its bootstrap standard error.

    The rows are drawn again, with replacement, `repeats` times. Every array of `samples` has the same number of rows;
    row i of each belongs to the same sample, and these rows are drawn together.

    Args:
      statistic: statistic(*samples) -> a number.
      samples: arrays, drawn again along their first axis.
      repeats: the number of bootstrap draws.
      seed: the seed of the draws.

    Raises:
      Refused: no rows; or whatever the statistic refuses.
    """
    arrays = [np.asarray(a) for a in samples]
    generator = np.random.default_rng(seed)
    n = len(arrays[0])
    if n == 0:
        raise Refused("a bootstrap needs at least 1 sample, got 0; draw some")
    draws = [statistic(*(a[index] for a in arrays)) for index in generator.integers(0, n, (repeats, n))]
    return Estimate(float(statistic(*arrays)), float(np.std(draws)))
