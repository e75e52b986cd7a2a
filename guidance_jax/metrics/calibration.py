"""Measure a noisy classifier level by level: accuracy, loss and calibration on data that it has not seen.

The expected calibration error (Naeini et al. 2015; Guo et al. 2017, arXiv 1706.04599) over `bins` of confidence is
sum_b (n_b / n) |accuracy_b - confidence_b|. Guidance follows the gradient of log p. Where the classifier is at chance,
this gradient is noise; where it is overconfident, the effective scale is too large. The suggested scale is that of
temperature scaling (Guo et al.): the power of p(y | x_t), renormalised, that fits unseen data best.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import Level, normal
from guidance_jax.core.edges import check_finite
from guidance_jax.datasets.images import Images
from guidance_jax.models.network import NoisyClassifier
from guidance_jax.schedules import Schedule


class LevelReport(NamedTuple):
    """Hold the measures of a noisy classifier at one level.

    Attributes:
      ratio: sigma / alpha of the level.
      accuracy: the share of samples whose label is the classifier's most probable one.
      loss: the mean of -log p(y | x_t), in nats.
      calibration_error: the result of `expected_calibration_error`, from 0 to 1.
      roughness: the median relative change of grad log p(y | x_t) when noise of 0.1 sigma is added to x_t. Near or
        above 1 the gradient is noise.
      scale: the factor on the logits that calibrates the classifier; below 1 if it is overconfident.
    """

    ratio: float
    accuracy: float
    loss: float
    calibration_error: float
    roughness: float
    scale: float


@jax.jit
def _log_probs(classifier: NoisyClassifier, keys: jax.Array, images: jax.Array, labels: Any, level: Level) -> tuple:
    def one(key, x0, label):
        noise_key, nudge_key = jax.random.split(key)
        x = level.noise(x0, normal(noise_key, x0))
        gradient = jax.grad(classifier.log_prob)
        here, near = gradient(x, level, label), gradient(x + 0.1 * level.sigma * normal(nudge_key, x), level, label)
        change = jnp.linalg.norm(near - here) / jnp.maximum(jnp.linalg.norm(here), 1e-30)
        return jax.nn.log_softmax(classifier.logits(x, level)), change

    return jax.vmap(one)(keys, images, labels)


def fitting_power(log_probs: np.ndarray, labels: np.ndarray) -> float:
    """Return the power of p, from 0.05 to 20, that minimises the cross-entropy of the renormalised classifier."""
    powers = np.geomspace(0.05, 20, 121)
    scaled = powers[:, None, None] * log_probs
    top = scaled.max(-1, keepdims=True)
    log_total = np.log(np.exp(scaled - top).sum(-1)) + top[..., 0]
    losses = (log_total - scaled[:, np.arange(len(labels)), labels]).mean(1)
    return float(powers[losses.argmin()])


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 10) -> float:
    """Return the mean gap between confidence and accuracy over bins of confidence, weighted by the bins' counts.

    Args:
      confidence: (n,), the largest probability of each sample, in [0, 1].
      correct: (n,), whether that probability was the label's.
      bins: the number of bins, all of the same width.

    Raises:
      Refused: a confidence that is not finite.
    """
    confidence = check_finite(confidence, "confidences")
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(confidence[which == b].sum() - correct[which == b].sum()) for b in range(bins)]
    return float(np.sum(gaps) / len(confidence))


def by_level(
    classifier: NoisyClassifier,
    data: Images,
    schedule: Schedule,
    ratios: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0),
) -> list[LevelReport]:
    """Measure `classifier` on noised `data` at each noise-to-signal ratio of `ratios`.

    Args:
      schedule: the schedule on which the classifier was trained.
      ratios: values of sigma / alpha.

    Raises:
      Refused: probabilities that are not finite.
    """
    images, labels = jnp.asarray(data.images), np.asarray(data.labels)
    levels = schedule.by_ratio(ratios)
    reports = []
    for i, ratio in enumerate(ratios):
        keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(i)))(jnp.arange(len(images)))
        found, changes = _log_probs(classifier, keys, images, jnp.asarray(labels), levels.at(i))
        logs = check_finite(found, f"log-probabilities at sigma / alpha = {ratio:g}")
        correct = logs.argmax(1) == labels
        loss = -logs[np.arange(len(labels)), labels].mean()
        error = expected_calibration_error(np.exp(logs.max(1)), correct)
        rough, power = float(np.median(changes)), fitting_power(logs, labels)
        reports.append(LevelReport(ratio, float(correct.mean()), float(loss), error, rough, power))
    return reports
