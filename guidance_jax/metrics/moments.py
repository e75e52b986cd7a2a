"""Mean and covariance of features, batch by batch, in float64 on the host (Chan, Golub & LeVeque 1979)."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from guidance_jax.core import Refused
from guidance_jax.core.edges import check_finite


@dataclass(frozen=True)
class Moments:
    """Hold the mean (d,) and the covariance (d, d) of `n` vectors; its denominator is n - 1 as in `numpy.cov`.

    `n` is None if only the moments are known, for example from a reference file.

    Raises:
      Refused: by `of`, fewer than two vectors, or numbers that are not finite.
    """

    mean: np.ndarray
    covariance: np.ndarray
    n: int | None = None

    @classmethod
    def of(cls, features: np.ndarray | Iterable[np.ndarray]) -> "Moments":
        """Compute the moments of features (n, d), or of an iterable of batches, one batch in memory at a time.

        Raises:
          Refused: fewer than two vectors, or some that are not finite.
        """
        batches = [features] if isinstance(features, np.ndarray) else features
        n, mean, scatter = 0, np.zeros(()), np.zeros(())
        for batch in batches:
            x = check_finite(batch)
            if len(x) == 0:
                continue
            own, many = x.mean(0), len(x)
            centred = x - own
            gap, total = own - mean, n + many
            scatter = scatter + centred.T @ centred + np.multiply.outer(gap, gap) * (n * many / total)
            mean, n = mean + gap * (many / total), total
        if n < 2:
            raise Refused(f"a covariance needs at least 2 samples, got {n}; draw more")
        return cls(mean, scatter / (n - 1), n)
