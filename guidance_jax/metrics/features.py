"""What every measure asks of the numbers that it is given: that they are finite."""

from typing import Any

import numpy as np

from guidance_jax.core import Refused


def check_finite(values: Any, what: str = "features") -> np.ndarray:
    """`values` (n, ...) in float64.

    Raises:
      Refused: rows that are not finite, with their number.
    """
    array = np.asarray(values, np.float64)
    bad = int((~np.isfinite(array).all(tuple(range(1, array.ndim)))).sum())
    if bad:
        raise Refused(
            f"{bad} of {len(array)} {what} are not finite; leave these samples out and say how many they were"
        )
    return array
