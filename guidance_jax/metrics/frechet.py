"""Frechet distance between Gaussians fitted to features (Heusel et al. 2017, arXiv 1706.08500).

    |mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^{1/2})

It is called FID on Inception features only; on other features it is not comparable with published FIDs. With n samples
it is too large by about c / n (Chong & Forsyth 2020, arXiv 1911.07023), where c depends on the two distributions.
"""

import numpy as np

from guidance_jax.core import Refused
from guidance_jax.core.edges import check_finite
from guidance_jax.metrics.moments import Moments


def frechet_distance(x: np.ndarray | Moments, y: np.ndarray | Moments) -> float:
    """Return the Frechet distance of two sets of feature vectors (n, d) and (m, d), in float64; it is at least 0.

    The square root is taken of S_1^{1/2} S_2 S_1^{1/2}, which is symmetric, so rank-deficient covariances are fine.

    Args:
      x, y: features (n, d), or their `Moments`.

    Raises:
      Refused: fewer than two samples, features of different sizes, or numbers that are not finite.
    """
    a, b = (m if isinstance(m, Moments) else Moments.of(np.asarray(m)) for m in (x, y))
    if a.mean.shape != b.mean.shape:
        raise Refused(f"features of {a.mean.size} and {b.mean.size} numbers cannot be compared; use one extractor")
    for moments in (a, b):
        if not (np.isfinite(moments.mean).all() and np.isfinite(moments.covariance).all()):
            raise Refused("a mean or a covariance is not finite; compute the reference again")
    values, vectors = np.linalg.eigh(a.covariance)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    cross = np.linalg.eigvalsh(root @ b.covariance @ root)
    distance = np.sum((a.mean - b.mean) ** 2) + np.trace(a.covariance) + np.trace(b.covariance)
    return float(max(distance - 2 * np.sum(np.sqrt(np.maximum(cross, 0))), 0))


def frechet_bias(features: np.ndarray, reference: Moments, sizes: int = 5, seed: int = 0) -> float:
    """Estimate by how much the Frechet distance of n features is too large because n is finite: c / n.

    A line in 1 / n is fitted to the distances of random subsets of n/2 to n features; its slope is c. The subsets
    overlap, and c itself has an error, so the result is an estimate.

    Args:
      features: (n, d), the samples' features.
      reference: the moments that they are compared with.
      sizes: the number of subset sizes to which the line is fitted.
      seed: the seed of the subsets.

    Raises:
      Refused: fewer than 20 features, or some that are not finite.
    """
    features = check_finite(features)
    n = len(features)
    if n < 20:
        raise Refused(f"the bias is fitted to subsets of at least 10 samples, got {n}; draw more")
    generator = np.random.default_rng(seed)
    counts = np.linspace(n // 2, n, sizes).astype(int)
    distances = [frechet_distance(features[generator.permutation(n)[:k]], reference) for k in counts]
    slope = np.polyfit(1 / counts, distances, 1)[0]
    return float(slope / n)
