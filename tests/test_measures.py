"""Measures at the edge: features that are not finite, few samples, equal samples, constant features."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import guidance_jax as gj
from guidance_jax.datasets.digits import digits
from guidance_jax.metrics.bootstrap import bootstrap
from guidance_jax.metrics.calibration import by_level, expected_calibration_error
from guidance_jax.metrics.diversity import within_class_diversity
from guidance_jax.metrics.fid import Reference, measure_images
from guidance_jax.metrics.frechet import frechet_bias, frechet_distance
from guidance_jax.metrics.inception import InceptionExtractor
from guidance_jax.metrics.inception_network import InceptionFeatures
from guidance_jax.metrics.inception_score import inception_score
from guidance_jax.metrics.kernel_distance import kernel_distance, squared_mmd
from guidance_jax.metrics.moments import Moments
from guidance_jax.metrics.precision_recall import density_coverage, find_covered, precision_recall, radii
from guidance_jax.metrics.report import TrainedJudge, evaluate
from guidance_jax.oracles.energy import energy_distance

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(40, 6)), RNG.normal(size=(50, 6))
BROKEN = X.copy()
BROKEN[3], BROKEN[7, 2] = np.nan, np.inf
MEASURES = {
    "moments": lambda x: Moments.of(x),
    "moments of batches": lambda x: Moments.of(iter([Y, x])),
    "frechet": lambda x: frechet_distance(x, Y),
    "frechet, the real ones": lambda x: frechet_distance(Y, x),
    "bias": lambda x: frechet_bias(x, Moments.of(Y)),
    "precision, recall": lambda x: precision_recall(x, Y),
    "precision, recall, the real ones": lambda x: precision_recall(Y, x),
    "density, coverage": lambda x: density_coverage(x, Y),
    "density, coverage, the real ones": lambda x: density_coverage(Y, x),
    "radii": radii,
    "covered": lambda x: find_covered(x, Y),
    "kernel": lambda x: kernel_distance(x, Y, size=20),
    "kernel, the real ones": lambda x: kernel_distance(Y, x, size=20),
    "squared MMD": lambda x: squared_mmd(x, Y),
    "inception": inception_score,
    "diversity": lambda x: within_class_diversity(x, np.arange(len(x)) % 3),
    "energy": lambda x: energy_distance(x, Y),
    "energy, the real ones": lambda x: energy_distance(Y, x),
}


@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_says_how_many_features_are_not_finite(name):
    MEASURES[name](X)
    with pytest.raises(gj.Refused, match=r"^2 of 40 \w+ are not finite; remove these samples") as caught:
        MEASURES[name](BROKEN)
    assert "\n" not in str(caught.value)


def test_moments_of_a_file_that_are_not_finite():
    for moments in (Moments(np.full(6, np.nan), np.eye(6)), Moments(np.zeros(6), np.full((6, 6), np.inf))):
        with pytest.raises(gj.Refused, match="a mean or a covariance is not finite"):
            frechet_distance(X, moments)


@pytest.mark.slow
def test_calibration_of_what_is_not_finite():
    with pytest.raises(gj.Refused, match="1 of 3 confidences are not finite"):
        expected_calibration_error(np.array([0.5, np.nan, 0.9]), np.ones(3))
    broken = gj.NoisyClassifier((), lambda params, x, t: jnp.full(10, jnp.nan) * x.sum(), batched=False)
    with pytest.raises(gj.Refused, match=r"20 of 20 log-probabilities at sigma / alpha = 0\.5 are not finite"):
        by_level(broken, digits().take(np.arange(20)), gj.Cosine(), (0.5,))


def test_an_inception_score_where_probabilities_underflow():
    """A class that nobody is taken for, by 2,000 nats: it counts for nothing, and two certain halves make 2."""
    logits = np.full((40, 3), -2000.0)
    logits[np.arange(40), np.arange(40) % 2] = 0
    np.testing.assert_allclose(inception_score(logits), (2, 0), rtol=1e-12)


class Extractor(InceptionExtractor):
    """Features of the pixels themselves, for tests."""

    def __call__(self, images, batch=50):
        if len(images) == 0:
            return super().__call__(images, batch)
        flat = np.asarray(images, np.float32).reshape(len(images), -1)
        flat = np.where(flat == 255, np.float32(np.nan), flat)
        return InceptionFeatures(flat[:, :6], flat[:, 6:10], flat[:, :3])


EXTRACTOR = Extractor(())
REAL = RNG.integers(0, 250, (30, 2, 2, 3)).astype(np.uint8)
ALL = {"fid", "fid_bias", "sfid", "is", "precision", "recall", "density", "coverage", "kid", "kid_error"}


@pytest.fixture
def reference(tmp_path):
    np.savez(tmp_path / "reference.npz", arr_0=REAL)
    return Reference.read(tmp_path / "reference.npz", EXTRACTOR)


@pytest.mark.parametrize(
    ("n", "impossible"),
    [
        (1, {"fid", "fid_bias", "sfid", "recall", "kid", "kid_error"}),
        (2, {"fid_bias", "recall"}),
        (4, {"fid_bias"}),
        (19, {"fid_bias"}),
        (20, set()),
    ],
)
def test_few_samples_have_the_measures_that_they_allow(reference, n, impossible):
    """Each of the others is that of the measure alone; what is nan has its reason, in one line."""
    samples = RNG.integers(0, 250, (n, 2, 2, 3)).astype(np.uint8)
    found = measure_images(samples, reference, EXTRACTOR)
    assert set(found) == ALL
    assert {name for name in found if np.isnan(found[name])} == impossible == set(found.refused)
    assert all("\n" not in reason and f"got {n}" in reason for reason in found.refused.values())
    pool = EXTRACTOR(samples).pool
    if n > 1:
        assert found["fid"] == frechet_distance(pool, EXTRACTOR(REAL).pool)
    assert found["density"] == density_coverage(pool, EXTRACTOR(REAL).pool)[0]
    assert found["precision"] == find_covered(pool, EXTRACTOR(REAL).pool).mean()
    written = json.loads(json.dumps(found.json(), allow_nan=False))
    assert all(written[name] is None for name in impossible)
    assert set(written.get("refused", ())) == impossible
    assert set(measure_images(samples, reference, EXTRACTOR, ["kid", "fid"])) == {"fid", "fid_bias", "kid", "kid_error"}


def test_equal_samples_and_constant_features(reference):
    """All measures are finite: no spread at all, one point for many."""
    for value in (0, 100):
        found = measure_images(np.full((25, 2, 2, 3), value, np.uint8), reference, EXTRACTOR)
        assert np.isfinite([*found.values()]).all()
        assert found.refused == {}
        assert found["is"] == pytest.approx(1)
    same = np.full((25, 2, 2, 3), 7, np.uint8)
    constant = Reference(
        *(Moments.of(EXTRACTOR(same).pool), Moments.of(EXTRACTOR(same).spatial)), EXTRACTOR(same).pool, ""
    )
    found = measure_images(same, constant, EXTRACTOR)
    assert (found["fid"], found["precision"], found["recall"], found["kid"]) == (0, 1, 1, pytest.approx(0, abs=1e-9))


def test_features_that_are_not_finite_cost_only_what_they_are_in(reference):
    """Pixel 8 belongs to the spatial features alone."""
    samples = RNG.integers(0, 250, (25, 2, 2, 3)).astype(np.uint8)
    samples.reshape(25, -1)[:2, 8] = 255
    found = measure_images(samples, reference, EXTRACTOR)
    assert set(found.refused) == {"sfid"}
    assert found.refused["sfid"].startswith("2 of 25 features are not finite")
    with pytest.raises(gj.Refused, match="at least 1 image, got 0"):
        measure_images(samples[:0], reference, EXTRACTOR)


def test_a_reference_of_one_image_has_no_moments(tmp_path):
    np.savez(tmp_path / "one.npz", arr_0=REAL[:1])
    reference = Reference.read(tmp_path / "one.npz", EXTRACTOR)
    assert "fid" not in reference.measures()
    found = measure_images(REAL, reference, EXTRACTOR)
    assert set(found.refused) == {"precision", "density", "coverage", "kid", "kid_error"}
    assert np.isfinite([found["is"], found["recall"]]).all()


def report(samples, labels, broken=0):
    """Of samples under a judge whose features are the pixels, the first `broken` of them nan where they are -1."""
    data = digits().take(np.arange(60))

    def apply(params, x):
        flat = x.reshape(-1)
        return jnp.arange(10.0) + 0 * flat.sum(), jnp.where(jnp.mean(flat) < -0.99, jnp.nan, flat)

    return evaluate(samples, labels, data, TrainedJudge((), apply), repeats=5)


def test_a_report_of_few_samples():
    data = digits()
    for n, impossible in ((1, {"frechet", "recall", "diversity"}), (2, {"recall", "diversity"}), (4, {"diversity"})):
        found = report(data.images[:n], data.labels[:n])
        assert set(found.refused) == impossible
        assert all(np.isnan(getattr(found, name).value) for name in impossible)
        assert found.accuracy.value == np.mean(data.labels[:n] == 9)
        assert all("\n" not in reason and "draw more" in reason for reason in found.refused.values())
        assert json.loads(json.dumps(found.json(), allow_nan=False))["diversity"]["value"] is None


def test_a_report_of_features_that_are_not_finite():
    """The judge's features of a black picture are nan: its prediction would be class 0, silently."""
    data = digits()
    samples, labels = data.images[:20].copy(), data.labels[:20]
    samples[4] = -1
    found = report(samples, labels)
    assert set(found.refused) == {"accuracy", "frechet", "precision", "recall"}
    assert all(reason.startswith("1 of 20 features are not finite") for reason in found.refused.values())
    assert np.isfinite(found.diversity.value)


def test_a_bootstrap_of_nothing():
    with pytest.raises(gj.Refused, match="at least 1 sample, got 0"):
        bootstrap(np.mean, np.zeros(0))
