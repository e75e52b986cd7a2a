"""Frechet distance between Gaussians fitted to features (Heusel et al. 2017, arXiv 1706.08500).

    |mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^{1/2})

It is called FID only on Inception features; on any others, as here, it is not comparable with published FIDs.
"""

import numpy as np


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """The Frechet distance of two sets of feature vectors (n, d) and (m, d), in float64; at least 0.

    The square root is taken of S_1^{1/2} S_2 S_1^{1/2}, which is symmetric, so rank-deficient covariances are fine.

    Raises:
      ValueError: fewer than two samples.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError(f"a covariance needs at least 2 samples, got {len(x)} and {len(y)}; draw more")
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    s, t = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    values, vectors = np.linalg.eigh(np.atleast_2d(s))
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    cross = np.linalg.eigvalsh(root @ np.atleast_2d(t) @ root)
    distance = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(np.atleast_2d(s + t))
    return float(max(distance - 2 * np.sum(np.sqrt(np.maximum(cross, 0))), 0))
