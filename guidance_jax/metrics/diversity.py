"""Within-class diversity: how much samples of one class differ from one another."""

import numpy as np

from guidance_jax.core.edges import check_finite


def within_class_diversity(samples: np.ndarray, labels: np.ndarray) -> float:
    """Return the root-mean-square difference of two samples of a class, averaged over pairs, then over classes.

    It has the units of the samples: 0 for copies, about 1.4 times the standard deviation for independent pixels.
    Classes with fewer than two samples are left out; if no class remains, the result is nan.

    Args:
      samples: (n, ...).
      labels: (n,), the class of each sample.

    Raises:
      Refused: samples that are not finite.
    """
    flat = check_finite(samples, "samples").reshape(len(samples), -1)
    means = []
    for label in np.unique(labels):
        own = flat[labels == label]
        if len(own) < 2:
            continue
        square = np.sum(own**2, 1)
        distances = np.sqrt(np.maximum(square[:, None] + square - 2 * own @ own.T, 0) / flat.shape[1])
        means.append(distances[np.triu_indices(len(own), 1)].mean())
    return float(np.mean(means)) if means else float("nan")
