"""Bootstrap standard errors (Efron 1979)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """A value and its bootstrap standard error."""

    value: float
    error: float

    def __str__(self):
        return f"{self.value:.3f} ± {self.error:.3f}"


def bootstrap(statistic: Callable[..., float], *samples: Any, repeats: int = 100, seed: int = 0) -> Estimate:
    """`statistic(*samples)` and its standard error, the samples' rows drawn again together, `repeats` times.

    Every array of `samples` has the same number of rows; row i of each belongs to the same sample.
    """
    arrays = [np.asarray(a) for a in samples]
    generator = np.random.default_rng(seed)
    n = len(arrays[0])
    draws = [statistic(*(a[index] for a in arrays)) for index in generator.integers(0, n, (repeats, n))]
    return Estimate(float(statistic(*arrays)), float(np.std(draws)))
