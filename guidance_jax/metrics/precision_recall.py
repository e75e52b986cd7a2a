"""Improved precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991): k-nearest-neighbour manifolds."""

import numpy as np


def _squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    square = np.sum(x**2, 1)[:, None] + np.sum(y**2, 1) - 2 * x @ y.T
    return np.maximum(square, 0)


def covered(points: np.ndarray, manifold: np.ndarray, k: int = 3) -> np.ndarray:
    """For each point, whether it lies within the distance of some manifold point to its k-th nearest neighbour.

    Raises:
      ValueError: fewer than k + 1 points on the manifold.
    """
    if len(manifold) <= k:
        raise ValueError(f"k={k} neighbours need more than {k} samples, got {len(manifold)}; draw more")
    manifold, points = np.asarray(manifold, np.float64), np.asarray(points, np.float64)
    radius = np.partition(_squared_distances(manifold, manifold), k, axis=1)[:, k]  # entry 0 is the point itself
    return np.any(_squared_distances(points, manifold) <= radius, axis=1)


def precision_recall(samples: np.ndarray, real: np.ndarray, k: int = 3) -> tuple[float, float]:
    """(precision, recall): the share of samples on the real manifold, and of real images on the samples' manifold."""
    return float(covered(samples, real, k).mean()), float(covered(real, samples, k).mean())
