"""Improved precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991), density and coverage (Naeem et al. 2020,
arXiv 2002.09797). A set's manifold is the union of balls around its points, each up to the k-th nearest neighbour."""

from collections.abc import Iterator

import numpy as np

from guidance_jax.core import Refused
from guidance_jax.core.edges import check_finite

ROWS = 2000  # points whose distances are in memory at a time


def _squared_distances(points: np.ndarray, manifold: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (rows, squared distances of these points to all of the manifold), `ROWS` rows at a time, in float64."""
    square = np.sum(manifold**2, 1)
    for i in range(0, len(points), ROWS):
        rows = slice(i, i + ROWS)
        part = points[rows]
        yield rows, np.maximum(np.sum(part**2, 1)[:, None] + square - 2 * part @ manifold.T, 0)


def radii(manifold: np.ndarray, k: int = 3) -> np.ndarray:
    """Return the squared distance of each point to its k-th nearest neighbour among the others.

    Raises:
      Refused: fewer than k + 1 points, or some that are not finite.
    """
    if len(manifold) <= k:
        raise Refused(f"k={k} neighbours need more than {k} samples, got {len(manifold)}; draw more")
    manifold, found = check_finite(manifold), np.zeros(len(manifold))
    for rows, distances in _squared_distances(manifold, manifold):
        found[rows] = np.partition(distances, k, axis=1)[:, k]  # entry 0 is the point itself
    return found


def find_covered(points: np.ndarray, manifold: np.ndarray, k: int = 3) -> np.ndarray:
    """Return for each point whether it lies in a ball of the manifold, whose radius reaches to the k-th neighbour.

    Raises:
      Refused: fewer than k + 1 points on the manifold, or points that are not finite.
    """
    return _balls(points, manifold, radii(manifold, k)) > 0


def _balls(points: np.ndarray, manifold: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Count for each point in how many balls around the manifold's points, of squared radii `radius`, it lies."""
    manifold, points = check_finite(manifold), check_finite(points)
    found = np.zeros(len(points), int)
    for rows, distances in _squared_distances(points, manifold):
        found[rows] = np.sum(distances <= radius, axis=1)
    return found


def precision_recall(samples: np.ndarray, real: np.ndarray, k: int = 3) -> tuple[float, float]:
    """Return (precision, recall): the share of samples on the real manifold, and of real images on the samples' one.

    Args:
      samples, real: features (n, d).
      k: each ball's radius is the distance to the k-th nearest neighbour.
    """
    return float(find_covered(samples, real, k).mean()), float(find_covered(real, samples, k).mean())


def density_coverage(samples: np.ndarray, real: np.ndarray, k: int = 5) -> tuple[float, float]:
    """Return (density, coverage) of `samples` in the balls around `real`, both features (n, d).

    Density is the mean number of real balls that contain a sample, divided by k; it may exceed 1. Coverage is the share
    of real balls that contain a sample. For equal distributions and many samples, density tends to 1 and coverage to
    1 - 2^-k.
    """
    radius = radii(real, k)
    real, samples = check_finite(real), check_finite(samples)
    nearest = np.zeros(len(real))
    for rows, distances in _squared_distances(real, samples):
        nearest[rows] = distances.min(1)
    return float(_balls(samples, real, radius).mean() / k), float((nearest <= radius).mean())
