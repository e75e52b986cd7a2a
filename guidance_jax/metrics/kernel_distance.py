"""Kernel distance (KID, Binkowski et al. 2018, arXiv 1801.01401): the unbiased squared MMD with (x y / d + 1)^3.

Unlike the Frechet distance it has no bias in the number of samples; it may be slightly negative.
"""

import numpy as np

from guidance_jax.core import Refused
from guidance_jax.core.edges import check_finite


def kernel_distance(
    samples: np.ndarray, real: np.ndarray, subsets: int = 100, size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return (mean, standard deviation) of the squared MMD over random subsets of the features, in float64.

    Args:
      samples, real: features (n, d).
      subsets: the number of pairs of subsets.
      size: the number of features in a subset, 2 or more.
      seed: the seed of the subsets.

    Raises:
      Refused: fewer than `size` features, fewer than two, or features that are not finite.
    """
    if min(len(samples), len(real)) < 2:
        raise Refused(
            f"a kernel distance needs at least 2 features of each, got {len(samples)} and {len(real)}; draw more"
        )
    if not 2 <= size <= min(len(samples), len(real)):
        raise Refused(
            f"subsets of {size} need at least that many features, got {len(samples)} and {len(real)}; pass a smaller "
            "size"
        )
    generator = np.random.default_rng(seed)
    x, y = check_finite(samples), check_finite(real)
    found = [squared_mmd(*(a[generator.choice(len(a), size, replace=False)] for a in (x, y))) for _ in range(subsets)]
    return float(np.mean(found)), float(np.std(found))


def squared_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Return the unbiased squared MMD of features (n, d) and (m, d)."""

    x, y = check_finite(x), check_finite(y)

    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    def off_diagonal(k):
        return (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1))

    return float(off_diagonal(kernel(x, x)) + off_diagonal(kernel(y, y)) - 2 * kernel(x, y).mean())
