"""Inception score (Salimans et al. 2016, arXiv 1606.03498): exp of the mean KL(p(y | x) || p(y)), over splits."""

import numpy as np

from guidance_jax.core import Refused
from guidance_jax.core.edges import check_finite


def inception_score(logits: np.ndarray, split: int = 5000) -> tuple[float, float]:
    """Return (mean, standard deviation) of the score over consecutive splits of `split` samples, in float64.

    ADM's evaluator reports the mean over splits of 5,000 in the order of the file, so a file sorted by class has
    another score than a shuffled one. `logits` (n, classes) are Inception's without the bias.

    Raises:
      Refused: no logits, or some that are not finite.

    >>> [round(float(number), 3) for number in inception_score(50.0 * np.eye(4))]  # four sure classes
    [4.0, 0.0]
    """
    logits = check_finite(logits, "logits")
    if len(logits) == 0:
        raise Refused("an Inception score needs at least 1 sample, got 0; draw some")
    log_p = logits - logits.max(1, keepdims=True)
    log_p = log_p - np.log(np.exp(log_p).sum(1, keepdims=True))
    scores = []
    for i in range(0, len(log_p), split):
        part = log_p[i : i + split]
        log_mean = np.logaddexp.reduce(part, 0) - np.log(len(part))  # finite where every p underflows to 0
        scores.append(np.exp(np.mean(np.sum(np.exp(part) * (part - log_mean), 1))))
    return float(np.mean(scores)), float(np.std(scores))
