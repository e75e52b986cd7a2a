"""The measures of images that papers report: FID, sFID, Inception score, precision, recall, as in ADM's evaluator.

    fid          Frechet distance of the pooled features, to the moments stored in the reference file
    sfid         the same with the spatial features
    is           Inception score, splits of 5,000 in the order of the file
    precision, recall      k = 3, against the reference's images
    density, coverage      k = 5, against the reference's images
    kid          kernel distance, subsets of 1,000, against the reference's images

Every report contains its protocol. With fewer than 50,000 samples it also contains the estimated bias of FID. A
measure that cannot be computed from these samples is nan, with the reason; the others are computed all the same.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from guidance_jax.core import Refused
from guidance_jax.datasets.arrays import read_npz
from guidance_jax.metrics.frechet import frechet_bias, frechet_distance
from guidance_jax.metrics.inception import InceptionExtractor, InceptionFeatures, digest
from guidance_jax.metrics.inception_score import inception_score
from guidance_jax.metrics.kernel_distance import kernel_distance
from guidance_jax.metrics.moments import Moments
from guidance_jax.metrics.precision_recall import density_coverage, find_covered

PUBLISHED = 50_000  # the number of samples of published FIDs
NEEDS = {
    "fid": "mu",
    "sfid": "mu_s",
    "is": None,
    **dict.fromkeys(("precision", "recall", "density", "coverage", "kid"), "arr_0"),
}


@dataclass(frozen=True)
class Reference:
    """Hold the reference that samples are compared with; what the file does not have is None.

    Attributes:
      pool: moments of the pooled features, for `fid`.
      spatial: moments of the spatial features, for `sfid`.
      features: pooled features (n, 2048) of the reference's images.
      name: the file's name and its hash.

    Raises:
      Refused: by `read`, a file without ADM's arrays.
    """

    pool: Moments | None
    spatial: Moments | None
    features: np.ndarray | None
    name: str

    @classmethod
    def read(cls, path: str | Path, extractor: InceptionExtractor, limit: int | None = None) -> "Reference":
        """Read a reference batch of ADM (`mu`, `sigma`, `mu_s`, `sigma_s`, `arr_0`), or a file with images only.

        Stored moments are used as they are; ADM's are those of the whole training set. If the file has no `mu`, both
        kinds of moments are computed from the images in `arr_0`.

        Args:
          path: the `.npz` file.
          extractor: the Inception network, which computes the features of the images.
          limit: how many of the stored images to use; None uses all.

        Raises:
          Refused: no such file, or one without images and moments.
        """
        stored = {k: a for k, a in read_npz(path).items() if k in ("mu", "sigma", "mu_s", "sigma_s", "arr_0")}
        if not stored:
            raise Refused(f"{path} has none of mu, sigma, mu_s, sigma_s, arr_0; pass an .npz file in ADM's format")
        found = extractor(stored["arr_0"][:limit]) if "arr_0" in stored else None
        pool = Moments(stored["mu"], stored["sigma"]) if "mu" in stored else None
        spatial = Moments(stored["mu_s"], stored["sigma_s"]) if "mu_s" in stored else None
        if found is not None and pool is None and len(found.pool) > 1:
            pool, spatial = Moments.of(found.pool), Moments.of(found.spatial)
        return cls(pool, spatial, None if found is None else found.pool, f"{Path(path).name} ({digest(path)})")

    def measures(self) -> list[str]:
        """Return the names of the measures that can be computed with this reference."""
        has = {None: True, "mu": self.pool, "mu_s": self.spatial, "arr_0": self.features}
        return [name for name, part in NEEDS.items() if has[part] is not None]


class Measures(dict[str, float]):
    """A dictionary measure -> value; its `refused` gives the reason for each value that is nan."""

    def __init__(self):
        super().__init__()
        self.refused: dict[str, str] = {}

    def take(self, names: Iterable[str], measure: Callable[[], Iterable[float]]) -> None:
        """Store the values that `measure()` returns under `names`, or nan and the reason if it refuses."""
        names = list(names)
        try:
            values = [float(value) for value in measure()]
        except Refused as error:
            values = [math.nan] * len(names)
            self.refused |= dict.fromkeys(names, str(error))
        self.update(zip(names, values, strict=True))

    def json(self) -> dict[str, Any]:
        """Return the values for a JSON file: None instead of nan, and `refused` if a measure was refused."""
        values = {name: value if math.isfinite(value) else None for name, value in self.items()}
        return values | ({"refused": self.refused} if self.refused else {})


def measure_images(
    images: np.ndarray, reference: Reference, extractor: InceptionExtractor, measures: list[str] | None = None
) -> Measures:
    """Measure uint8 images (n, H, W, 3) and return {measure: value}; `is` is the mean over splits.

    With `fid`, for fewer than 50,000 samples, comes `fid_bias`: an estimate of how much `fid` is too large. With `kid`
    comes `kid_error`, its standard deviation over subsets. A measure is nan if the samples are too few or their
    features not finite; the reason is in `refused` of the result.

    Args:
      images: the samples.
      reference: what they are compared with.
      extractor: the Inception network.
      measures: the names of the measures to compute; None computes all that the reference allows.

    Raises:
      Refused: a measure that does not exist, or for which the reference has no features; no images.
    """
    check_measures(reference, measures)
    return measure_features(extractor(images), reference, measures)


def check_measures(reference: Reference, measures: list[str] | None) -> None:
    """Raise `Refused` if one of `measures` does not exist, or if `reference` has no features for it."""
    for name in measures or []:
        if name not in NEEDS:
            raise Refused(f"measures must be among {', '.join(NEEDS)}, got {name!r}")
        if name not in reference.measures():
            raise Refused(
                f"the reference {reference.name} has no {NEEDS[name]}, which {name} needs; "
                f"it allows {', '.join(reference.measures())}"
            )


def measure_features(features: InceptionFeatures, reference: Reference, measures: list[str] | None = None) -> Measures:
    """Compute `measures` from the Inception `features` of images: `measure_images` without the network.

    Args:
      features: the samples' features.
      reference, measures: as in `measure_images`.
    """
    check_measures(reference, measures)
    wanted = reference.measures() if measures is None else measures
    found = Measures()
    pool: Any = features.pool
    against: Any = reference  # check_measures has found the parts that the measures need
    table: dict[tuple[str, ...], Callable[[], Iterable[float]]] = {
        ("fid",): lambda: [frechet_distance(pool, against.pool)],
        ("fid_bias",): lambda: [frechet_bias(pool, against.pool)],
        ("sfid",): lambda: [frechet_distance(features.spatial, against.spatial)],
        ("is",): lambda: inception_score(features.logits)[:1],
        ("precision",): lambda: [find_covered(pool, against.features).mean()],
        ("recall",): lambda: [find_covered(against.features, pool).mean()],
        ("density", "coverage"): lambda: density_coverage(pool, against.features),
        ("kid", "kid_error"): lambda: kernel_distance(
            pool, against.features, size=min(1000, len(pool), len(against.features))
        ),
    }
    for names, measure in table.items():
        if {name.split("_")[0] for name in names} & set(wanted) and not (
            names == ("fid_bias",) and len(pool) >= PUBLISHED
        ):
            found.take(names, measure)
    for name in [name for name in found if name.split("_")[0] not in wanted]:
        del found[name]
        found.refused.pop(name, None)
    return found


def protocol(reference: Reference, extractor: InceptionExtractor, n: int, labels: np.ndarray, sampling: Any) -> dict:
    """Return how the measures were computed, which a reader needs to compare them with other numbers.

    It names the features, the resizing, the reference, the samples, the sampler and the versions.

    Args:
      reference: what the samples were compared with.
      extractor: the Inception network.
      n: the number of samples.
      labels: (n,), the label of each sample.
      sampling: the settings that the sampler wrote beside the samples; None is written as "unknown".
    """
    counts = np.unique(labels, return_counts=True)[1]
    balanced = "balanced" if counts.max() - counts.min() <= 1 else "not balanced"
    return {
        "features": extractor.name,
        "resize": "TensorFlow 1 bilinear to 299, no antialiasing, of uint8 images",
        "reference": reference.name,
        "n": n,
        "label policy": f"{len(counts)} labels, {balanced}",
        "sampling": "unknown" if sampling is None else sampling,
        "convention": "scale 1 is the conditional model, 0 the unconditional one",
        "splits": "Inception score: 5,000 in the order of the file; precision, recall: k = 3; density, coverage: k = 5",
        "matmul precision": "highest, float32; moments in float64",
        "versions": {"jax": jax.__version__, "numpy": np.__version__},
        "device": str(jax.devices()[0]),
    }
