"""FID and its like: torch-fidelity's numbers, closed forms, and what is written beside them."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from guidance_jax.metrics.fid import NEEDS, Reference, measure_images
from guidance_jax.metrics.frechet import frechet_bias, frechet_distance
from guidance_jax.metrics.inception import load_inception
from guidance_jax.metrics.inception_score import inception_score
from guidance_jax.metrics.kernel_distance import kernel_distance, squared_mmd
from guidance_jax.metrics.moments import Moments
from guidance_jax.metrics.precision_recall import density_coverage, find_covered, precision_recall

FOLDER = Path(__file__).parent / "golden"
GOLDEN, SHAPES = np.load(FOLDER / "fidelity.npz"), json.loads((FOLDER / "inception.json").read_text())
X, Y = GOLDEN["x"], GOLDEN["y"]


def test_measures_of_features_are_torch_fidelity_s():
    np.testing.assert_allclose(frechet_distance(X, Y), GOLDEN["fid"], rtol=1e-5)
    np.testing.assert_allclose(inception_score(GOLDEN["logits"], 100), GOLDEN["is"], rtol=1e-5)
    np.testing.assert_allclose(precision_recall(X, Y), GOLDEN["pr"], rtol=1e-5)
    np.testing.assert_allclose(squared_mmd(X[:260], Y), GOLDEN["kid"], rtol=1e-5)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A weight file of the golden network: 95 MB, by its formula."""
    state = {}
    for k, key in enumerate(sorted(SHAPES)):
        shape = SHAPES[key]
        i = np.arange(np.prod(shape))
        v = np.sin(0.37 * i + k + 0.001 * (i % 97) ** 2)
        v = v * (4 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1 * v
        state[key] = (v + key.endswith(("bn.weight", "running_var"))).reshape(shape).astype(np.float32)
    path = tmp_path_factory.mktemp("weights") / "inception.safetensors"
    save_file(state, path)
    return path


@pytest.fixture(scope="module")
def extractor(weights):
    return load_inception(weights)


@pytest.mark.slow
def test_inception_is_torch_fidelity_s(extractor):
    """On images that are not square, so that both axes of the resize are seen."""
    found = extractor(GOLDEN["images"])
    for name, want in (("pool", "pool"), ("spatial", "spatial"), ("logits", "logits_unbiased")):
        np.testing.assert_allclose(getattr(found, name), GOLDEN[want], atol=1e-4 * np.abs(GOLDEN[want]).max())


@pytest.mark.slow
def test_features_do_not_depend_on_the_batch(extractor):
    images = np.concatenate([GOLDEN["images"]] * 2)[:3]
    np.testing.assert_allclose(extractor(images, 2).pool, extractor(images, 3).pool, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"takes uint8 images .* got float32"):
        extractor(images.astype(np.float32))


def test_moments_of_batches_are_those_of_all():
    batches = (X[i : i + 7] + 1e4 for i in range(0, len(X), 7))  # far from zero: sums of squares would cancel
    found = Moments.of(batches)
    whole = X.astype(np.float64) + np.float32(1e4)
    np.testing.assert_allclose(found.covariance, np.cov((X + 1e4).astype(np.float64), rowvar=False), rtol=1e-9)
    np.testing.assert_allclose(found.mean, whole.mean(0), rtol=1e-7)
    assert found.n == 300


def test_the_bias_of_few_samples_is_about_the_distance_to_the_truth():
    """Against the true moments of its own distribution, all of the distance is bias."""
    samples = np.random.default_rng(0).normal(size=(400, 20))
    truth = Moments(np.zeros(20), np.eye(20))
    distance = frechet_distance(samples, truth)
    assert 0.5 * distance < frechet_bias(samples, truth) < 1.5 * distance
    shifted = samples + 3
    assert frechet_bias(shifted, truth) < 0.05 * frechet_distance(shifted, truth)
    with pytest.raises(ValueError, match="12 and 20 numbers"):
        frechet_distance(X, truth)


def test_inception_score_of_certain_and_uncertain_predictions():
    certain = 50 * np.eye(10)[np.arange(100) % 10]
    np.testing.assert_allclose(inception_score(certain), (10, 0), rtol=1e-6)
    np.testing.assert_allclose(inception_score(np.zeros((100, 10))), (1, 0), atol=1e-12)
    by_class = np.sort(np.arange(100) % 10)
    np.testing.assert_allclose(inception_score(50 * np.eye(10)[by_class], 10), (1, 0), atol=1e-9)  # order matters


def test_density_and_coverage_of_known_sets():
    """On a line: real 0, 1, 2, ..., 9, so every ball of k=1 has radius 1."""
    real = np.arange(10.0)[:, None]
    assert density_coverage(real, real, k=1) == (pytest.approx(28 / 10), 1.0)  # inner points lie in three balls
    assert density_coverage(real + 100, real, k=1) == (0, 0)
    np.testing.assert_allclose(density_coverage(np.full((7, 1), 4.5), real, k=1), (2, 0.2))  # in the balls of 4 and 5
    assert find_covered(np.array([[9.9], [10.1]]), real, 1).tolist() == [True, False]


def test_kernel_distance_is_unbiased():
    generator = np.random.default_rng(1)
    x, y = generator.normal(size=(2, 2000, 6))
    mean, spread = kernel_distance(x, y, subsets=100, size=50)
    assert abs(mean) < 4 * spread / 10
    assert kernel_distance(x, y + 1, subsets=10, size=200)[0] > 10 * abs(mean)
    with pytest.raises(ValueError, match="subsets of 1000 need at least that many features, got 300 and 260"):
        kernel_distance(X, Y)


def batch(path, *, images=True, moments=True, spatial=True):
    generator, parts = np.random.default_rng(2), {}
    if images:
        parts["arr_0"] = generator.integers(0, 256, (24, 16, 16, 3), dtype=np.uint8)
    if moments:
        parts |= {"mu": np.zeros(2048), "sigma": np.eye(2048)}
    if spatial:
        parts |= {"mu_s": np.zeros(2023), "sigma_s": np.eye(2023)}
    np.savez(path, **parts)
    return path


def test_a_reference_without_the_features_asked_for_says_what_it_allows(tmp_path, extractor):
    path = batch(tmp_path / "moments.npz", images=False, spatial=False)
    reference = Reference.read(path, extractor)
    assert reference.measures() == ["fid", "is"]
    images = np.zeros((4, 16, 16, 3), np.uint8)
    with pytest.raises(ValueError, match=r"moments\.npz \(.*\) has no mu_s, which sfid needs; it allows fid, is"):
        measure_images(images, reference, extractor, ["fid", "sfid"])
    with pytest.raises(ValueError, match="has no arr_0, which precision needs"):
        measure_images(images, reference, extractor, ["precision"])
    with pytest.raises(ValueError, match="measures must be among fid, sfid, is"):
        measure_images(images, reference, extractor, ["FID"])
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(ValueError, match="has none of mu, sigma"):
        Reference.read(tmp_path / "other.npz", extractor)
    (tmp_path / "cut.npz").write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="cannot be read"):
        Reference.read(tmp_path / "cut.npz", extractor)


def test_missing_inception_weights_say_where_to_put_them(tmp_path, monkeypatch):
    monkeypatch.setenv("GUIDANCE_JAX_WEIGHTS", str(tmp_path))
    with pytest.raises(ValueError, match=rf"no Inception weights at {tmp_path}/weights-inception.*judge") as caught:
        load_inception()
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_every_measure_comes_with_its_protocol(tmp_path, weights):
    """By the command line; images that are the reference's own are precise, recalled and covered."""
    from typer.testing import CliRunner

    from guidance_jax.app.cli import app

    path = batch(tmp_path / "reference.npz", moments=False, spatial=False)
    with np.load(path) as file:
        own = file["arr_0"]
    samples, out = tmp_path / "samples.npz", tmp_path / "out.json"
    np.savez(samples, arr_0=own, arr_1=np.arange(24) % 5)
    (tmp_path / "samples.json").write_text('{"scale": 2.0}')
    arguments = ["--samples", samples, "--reference", path, "--inception", weights, "--out", out]
    done = CliRunner().invoke(app, ["evaluate", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    assert "too large by about" in done.output
    record = json.loads(out.read_text())
    assert record["protocol"]["sampling"] == {"scale": 2.0}
    found = record["measures"]
    assert set(found) == {*NEEDS, "fid_bias", "kid_error"}
    assert found["fid"] == pytest.approx(0, abs=1e-4)
    assert found["sfid"] == pytest.approx(0, abs=1e-4)
    assert (found["precision"], found["recall"], found["coverage"]) == (1, 1, 1)
    assert record["protocol"]["label policy"] == "5 labels, balanced"
    needed = {"features", "resize", "reference", "n", "label policy", "sampling", "convention", "versions", "device"}
    assert needed <= record["protocol"].keys()
