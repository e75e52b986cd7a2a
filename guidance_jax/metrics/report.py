"""All measures of one set of samples against held-out data, under a judge that is never the guide."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from guidance_jax.core import Refused
from guidance_jax.datasets.images import Images
from guidance_jax.metrics.bootstrap import Estimate, bootstrap
from guidance_jax.metrics.diversity import within_class_diversity
from guidance_jax.metrics.frechet import frechet_distance
from guidance_jax.metrics.precision_recall import covered
from guidance_jax.networks.judge import TrainedJudge


@dataclass(frozen=True)
class Report:
    """Measures with bootstrap errors. `frechet` is in the judge's features: it is not an FID.

    `not_finite` samples are counted, and left out of the measures.
    """

    accuracy: Estimate
    frechet: Estimate
    precision: Estimate
    recall: Estimate
    diversity: Estimate
    samples: int
    not_finite: int

    def json(self) -> dict:
        return {k: v._asdict() if isinstance(v, Estimate) else v for k, v in vars(self).items()}


def evaluate(
    samples: np.ndarray, labels: np.ndarray, held_out: Images, judge: TrainedJudge, *, repeats: int = 50
) -> Report:
    """Measure `samples` that were asked to be of `labels`.

    accuracy: the share that the judge takes for what was asked. frechet, precision, recall: against the held-out
    images, in the judge's features. diversity: within the class asked for, in pixels.

    Raises:
      Refused: no finite sample, or shapes that do not fit.
    """
    samples, labels = np.asarray(samples), np.asarray(labels)
    if samples.shape[1:] != held_out.shape or labels.shape != samples.shape[:1]:
        raise Refused(
            f"samples must be (n, {', '.join(map(str, held_out.shape))}) with a label each, got {samples.shape} and "
            f"{labels.shape}; pass what generate returned"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise Refused(f"labels are integers, got {labels.dtype}; write labels.astype(int)")
    if labels.min() < 0 or labels.max() >= len(held_out.names):
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise Refused(f"labels go from 0 to {len(held_out.names) - 1}, got {wrong}: samples of another model, or data")
    finite = np.isfinite(samples.reshape(len(samples), -1)).all(1)
    bad = int((~finite).sum())
    if bad == len(samples):
        raise Refused(f"none of the {len(samples)} samples is finite; lower the scale or clip the clean estimate")
    samples, labels = samples[finite], labels[finite]
    predicted, features = judge(samples)
    _, real = judge(held_out.images)
    again = partial(bootstrap, repeats=repeats)
    return Report(
        accuracy=again(np.mean, predicted == labels),
        frechet=again(lambda f: frechet_distance(f, real), features),
        precision=again(np.mean, covered(features, real)),
        recall=again(np.mean, covered(real, features)),
        diversity=again(within_class_diversity, samples, labels),
        samples=len(samples) + bad,
        not_finite=bad,
    )
