"""All measures of one set of samples against held-out data, under a judge that is never the guide."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from guidance_jax.core import Refused
from guidance_jax.core.edges import check_finite
from guidance_jax.datasets.images import Images
from guidance_jax.metrics.bootstrap import Estimate, bootstrap
from guidance_jax.metrics.diversity import within_class_diversity
from guidance_jax.metrics.frechet import frechet_distance
from guidance_jax.metrics.precision_recall import find_covered
from guidance_jax.zoo.judge import TrainedJudge


@dataclass(frozen=True)
class Report:
    """Measures with bootstrap errors. A measure that the samples do not allow is nan.

    Attributes:
      accuracy: the share of samples that the judge takes for what was asked.
      frechet, precision, recall: against held-out images, in the judge's features; `frechet` is not an FID.
      diversity: within the class asked for, in pixels.
      samples: how many were measured.
      not_finite: how many were not finite, and left out.
      refused: why a measure is nan, by its name.
    """

    accuracy: Estimate
    frechet: Estimate
    precision: Estimate
    recall: Estimate
    diversity: Estimate
    samples: int
    not_finite: int
    refused: dict[str, str] = field(default_factory=dict)

    def json(self) -> dict:
        """For a file: null in the place of nan."""

        def plain(estimate: Estimate) -> dict:
            return {k: v if math.isfinite(v) else None for k, v in estimate._asdict().items()}

        return {k: plain(v) if isinstance(v, Estimate) else v for k, v in vars(self).items()}


def evaluate(
    samples: np.ndarray, labels: np.ndarray, held_out: Images, judge: TrainedJudge, *, repeats: int = 50
) -> Report:
    """Measure `samples` that were asked to be of `labels`.

    Args:
      samples, labels: (n, height, width, channels) and what was asked of each.
      held_out: real images that nothing was trained on.
      judge: which guided nothing.
      repeats: of the bootstrap.

    Raises:
      Refused: no finite sample, or shapes that do not fit. A measure that alone cannot be computed is nan instead.
    """
    samples, labels = np.asarray(samples), np.asarray(labels)
    if samples.shape[1:] != held_out.shape or labels.shape != samples.shape[:1]:
        raise Refused(
            f"samples must be (n, {', '.join(map(str, held_out.shape))}) with a label each, got {samples.shape} and "
            f"{labels.shape}; pass what generate returned"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise Refused(f"labels must be integers, got {labels.dtype}; write labels.astype(int)")
    if labels.min() < 0 or labels.max() >= len(held_out.names):
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise Refused(
            f"labels go from 0 to {len(held_out.names) - 1}, got {wrong}: the samples belong to another model or other "
            "data"
        )
    finite = np.isfinite(samples.reshape(len(samples), -1)).all(1)
    bad = int((~finite).sum())
    if bad == len(samples):
        raise Refused(f"none of the {len(samples)} samples is finite; lower the scale or clip the clean estimate")
    samples, labels = samples[finite], labels[finite]
    predicted, features = judge(samples)
    _, real = judge(held_out.images)
    refused: dict[str, str] = {}

    def take(name: str, statistic: Callable, arrays: Callable[[], tuple]) -> Estimate:
        try:
            estimate = bootstrap(statistic, *arrays(), repeats=repeats)
        except Refused as error:
            refused[name] = str(error)
            return Estimate(math.nan, math.nan)
        if math.isnan(estimate.value):
            refused[name] = "no class has 2 samples; draw more"
        return estimate

    def correct() -> tuple:
        check_finite(features)  # where they are not, neither are the probabilities
        return (predicted == labels,)

    return Report(
        accuracy=take("accuracy", np.mean, correct),
        frechet=take("frechet", lambda f: frechet_distance(f, real), lambda: (features,)),
        precision=take("precision", np.mean, lambda: (find_covered(features, real),)),
        recall=take("recall", np.mean, lambda: (find_covered(real, features),)),
        diversity=take("diversity", within_class_diversity, lambda: (samples, labels)),
        samples=len(samples) + bad,
        not_finite=bad,
        refused=refused,
    )
