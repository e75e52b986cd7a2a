"""How good a noisy classifier is, level by level: accuracy, loss and calibration on data it has not seen.

Expected calibration error (Naeini et al. 2015; Guo et al. 2017, arXiv 1706.04599) over `bins` of confidence:
sum_b (n_b / n) |accuracy_b - confidence_b|. Guidance follows the gradient of log p: where the classifier is at
chance its gradient is noise, where it is over-confident the effective scale is too large.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import Level, normal
from guidance_jax.datasets.images import Images
from guidance_jax.network import NoisyClassifier
from guidance_jax.schedules import Schedule


class LevelReport(NamedTuple):
    """A noisy classifier at one level; `loss` in nats, `ratio` = sigma / alpha."""

    ratio: float
    accuracy: float
    loss: float
    calibration_error: float


@jax.jit
def _log_probs(classifier: NoisyClassifier, keys: jax.Array, images: jax.Array, level: Level) -> jax.Array:
    def one(key, x0):
        return jax.nn.log_softmax(classifier.logits(level.noise(x0, normal(key, x0)), level))

    return jax.vmap(one)(keys, images)


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 10) -> float:
    """The mean gap between confidence and accuracy over equal bins of confidence, weighted by their counts."""
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(confidence[which == b].sum() - correct[which == b].sum()) for b in range(bins)]
    return float(np.sum(gaps) / len(confidence))


def by_level(
    classifier: NoisyClassifier,
    data: Images,
    schedule: Schedule,
    ratios: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0),
) -> list[LevelReport]:
    """Accuracy, loss and calibration of `classifier` on `data` at the noise-to-signal ratios given."""
    images, labels = jnp.asarray(data.images), np.asarray(data.labels)
    levels = schedule.by_ratio(ratios)
    reports = []
    for i, ratio in enumerate(ratios):
        keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(i)))(jnp.arange(len(images)))
        logs = np.asarray(_log_probs(classifier, keys, images, levels.at(i)), np.float64)
        correct = logs.argmax(1) == labels
        loss = -logs[np.arange(len(labels)), labels].mean()
        error = expected_calibration_error(np.exp(logs.max(1)), correct)
        reports.append(LevelReport(ratio, float(correct.mean()), float(loss), error))
    return reports
