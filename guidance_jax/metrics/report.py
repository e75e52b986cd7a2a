"""Measure one set of samples against held-out data, with a judge: a classifier that never guides."""

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
    """Hold measures with bootstrap errors. A measure that cannot be computed from the samples is nan.

    Attributes:
      accuracy: the share of samples to which the judge gives the label asked for.
      frechet, precision, recall: against held-out images, in the judge's features; `frechet` is not an FID.
      diversity: `within_class_diversity` of the samples, in the units of the pixels.
      samples: the number of samples, with those that are not finite.
      not_finite: the number of samples that are not finite; they are left out of the measures.
      refused: the reason for each measure that is nan, by its name.
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
        """Return the report for a JSON file: None instead of nan."""

        def plain(estimate: Estimate) -> dict:
            return {k: v if math.isfinite(v) else None for k, v in estimate._asdict().items()}

        return {k: plain(v) if isinstance(v, Estimate) else v for k, v in vars(self).items()}


def evaluate(
    samples: np.ndarray, labels: np.ndarray, held_out: Images, judge: TrainedJudge, *, repeats: int = 50
) -> Report:
    """Measure `samples` that were drawn for `labels`.

    Args:
      samples: (n, height, width, channels), in the units of `held_out`.
      labels: (n,), the label asked for, of each sample.
      held_out: real images on which nothing was trained.
      judge: a classifier that did not guide the samples.
      repeats: the number of bootstrap draws.

    Raises:
      Refused: no finite sample; shapes or labels that do not fit `held_out`. One measure that cannot be computed is
        nan instead.
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
        check_finite(features)  # where features are not finite, the probabilities are not either
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
