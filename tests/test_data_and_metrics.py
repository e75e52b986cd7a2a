"""Readers on files written here, and measures on cases known by hand."""

import gzip
import struct

import numpy as np
import pytest
from PIL import Image

from guidance_jax.datasets.digits import digits
from guidance_jax.datasets.idx import FASHION, idx, read_idx
from guidance_jax.datasets.image_folder import image_folder
from guidance_jax.datasets.images import Images
from guidance_jax.metrics.bootstrap import bootstrap
from guidance_jax.metrics.diversity import within_class_diversity
from guidance_jax.metrics.frechet import frechet_distance
from guidance_jax.metrics.precision_recall import precision_recall
from guidance_jax.metrics.report import TrainedJudge, evaluate
from guidance_jax.pictures import from_uint8, save_grid, to_uint8


def write_idx(path, array):
    raw = b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


def test_digits_are_the_1797():
    data = digits()
    assert data.images.shape == (1797, 8, 8, 1)
    assert (data.images.min(), data.images.max()) == (-1.0, 1.0)
    assert np.bincount(data.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_split_is_stratified_disjoint_and_reproducible():
    data = digits()
    seen, held_out = data.split(0.2, seed=3)
    assert len(seen) + len(held_out) == 1797
    assert abs(np.bincount(held_out.labels) - 0.2 * np.bincount(data.labels)).max() <= 0.5
    rows = {a.tobytes() for a in seen.images} & {a.tobytes() for a in held_out.images}
    assert not rows
    np.testing.assert_array_equal(data.split(0.2, seed=3)[1].images, held_out.images)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx(tmp_path, suffix):
    images = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
    write_idx(tmp_path / f"train-images-idx3-ubyte{suffix}", images)
    write_idx(tmp_path / f"train-labels-idx1-ubyte{suffix}", np.array([0, 9, 2, 3, 3], np.uint8))
    data = idx(tmp_path, names=FASHION)
    assert data.shape == (4, 3, 1)
    assert data.labels.tolist() == [0, 9, 2, 3, 3]
    np.testing.assert_array_equal(to_uint8(data.images)[..., 0], images)


def test_idx_refusals(tmp_path):
    with pytest.raises(ValueError, match="apt-get install dataset-fashion-mnist"):
        idx(tmp_path)
    path = tmp_path / "a-ubyte"
    path.write_bytes(b"PNG, really")
    with pytest.raises(ValueError, match="not an IDX file"):
        read_idx(path)
    write_idx(path, np.zeros((3, 2), np.uint8))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"\(3, 2\) bytes, got 5"):
        read_idx(path)
    path.write_bytes(b"\0\0\x08\3" + bytes(11))  # one byte of the header is missing
    with pytest.raises(ValueError, match="fetch it again"):
        read_idx(path)
    short = tmp_path / "b.gz"
    short.write_bytes(gzip.compress(b"x" * 1000)[:-9])
    with pytest.raises(ValueError, match=r"b\.gz cannot be read"):
        read_idx(short)


def test_image_folder(tmp_path):
    for name, value in (("cat", 0), ("dog", 255)):
        (tmp_path / name).mkdir()
        Image.new("RGB", (20, 10), (value,) * 3).save(tmp_path / name / "one.png")
    data = image_folder(tmp_path, 8)
    assert data.names == ("cat", "dog")
    assert data.shape == (8, 8, 3)
    np.testing.assert_allclose([data.images[0].max(), data.images[1].min()], [-1, 1])
    (tmp_path / "dog" / "two.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"two\.png"):
        image_folder(tmp_path, 8)
    with pytest.raises(ValueError, match="sub-folders"):
        image_folder(tmp_path / "nowhere", 8)


def test_a_folder_says_what_it_does_not_read(tmp_path):
    """TIFF is read; other formats are named, and a sub-folder without images is no class."""
    for name in ("cat", "empty", "zebra"):
        (tmp_path / name).mkdir()
    for name, file in (("cat", "one.tif"), ("zebra", "two.png")):
        Image.new("RGB", (8, 8)).save(tmp_path / name / file)
    (tmp_path / "cat" / "three.heic").write_bytes(b"?")
    with pytest.warns(UserWarning, match="no classes") as said:
        data = image_folder(tmp_path, 8)
    assert data.names == ("cat", "zebra")
    assert data.labels.tolist() == [0, 1]
    words = " ".join(str(one.message) for one in said)
    assert "files .heic in" in words
    assert "sub-folders without images, which are no classes: empty" in words


def test_images_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="one label each"):
        Images(np.zeros((3, 4, 4, 1), np.float32), np.zeros(2, np.int32), ("a",))
    with pytest.raises(ValueError, match="labels go from 0 to 0"):
        Images(np.zeros((2, 4, 4, 1), np.float32), np.array([0, 1]), ("a",))


def test_bytes_survive():
    values = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    np.testing.assert_array_equal(to_uint8(from_uint8(values))[..., 0], values)
    assert to_uint8(np.array([np.nan, 9.0, -9.0])).tolist() == [0, 255, 0]


def test_frechet_distance_of_gaussians():
    """Diagonal covariances: |mu|^2 + sum (s - t)^2; exact moments by construction."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 3))
    x = (x - x.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T  # mean 0, covariance I
    scale, shift = np.array([1.0, 2.0, 0.5]), np.array([3.0, 0.0, -4.0])
    np.testing.assert_allclose(frechet_distance(x, x * scale + shift), 25 + 0 + 1 + 0.25, rtol=1e-6)
    np.testing.assert_allclose(frechet_distance(x, x), 0, atol=1e-6)
    flat = np.concatenate([x, np.zeros((500, 2))], 1)  # rank-deficient
    np.testing.assert_allclose(frechet_distance(flat, flat), 0, atol=1e-6)
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(x[:1], x)


def test_precision_and_recall_on_a_line():
    """Real at 0..9, radius 1 with k = 1. Samples: five among them, five far away."""
    real = np.arange(10.0)[:, None]
    samples = np.array([0.0, 1, 2, 3, 4, 100, 101, 200, 201, 202])[:, None]
    precision, recall = precision_recall(samples, real, k=1)
    assert precision == 0.5
    assert recall == 0.6  # 0 to 4, and 5 at distance 1 from 4
    assert precision_recall(real, real) == (1.0, 1.0)
    with pytest.raises(ValueError, match="more than 3"):
        precision_recall(samples[:3], real)


def test_diversity_by_hand():
    """Class 0: two points 2 apart in both entries (rms 2); class 1: copies; class 2: alone, left out."""
    samples = np.array([[0, 0], [2, 2], [5, 5], [5, 5], [9, 9]], float)
    assert within_class_diversity(samples, np.array([0, 0, 1, 1, 2])) == 1.0
    assert np.isnan(within_class_diversity(samples[:1], np.array([0])))


def test_bootstrap_error_of_a_mean_is_the_standard_error():
    values = np.random.default_rng(0).normal(size=400)
    estimate = bootstrap(np.mean, values, repeats=500)
    np.testing.assert_allclose(estimate.error, values.std() / 20, rtol=0.15)
    assert estimate.value == values.mean()


def test_report_counts_what_is_not_finite():
    data = digits().take(np.arange(60))

    def brightness(params, x):
        return -((np.arange(10) - 5.0) ** 2) + 0 * x.sum(), x.reshape(-1)

    judge = TrainedJudge((), brightness)
    samples = data.images.copy()
    samples[3] = np.nan
    report = evaluate(samples, data.labels, data, judge)
    assert (report.samples, report.not_finite) == (60, 1)
    kept = np.delete(data.labels, 3)
    np.testing.assert_allclose(report.accuracy.value, (kept == 5).mean())
    assert report.precision.value == 1.0
    with pytest.raises(ValueError, match="none of the 60"):
        evaluate(samples * np.nan, data.labels, data, judge)
    with pytest.raises(ValueError, match="pass what generate returned"):
        evaluate(samples[:, :4], data.labels, data, judge)


def test_grid(tmp_path):
    save_grid(tmp_path / "a.png", np.ones((5, 3, 3, 1)), columns=2, zoom=2)
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (2 * 4 * 2, 3 * 4 * 2)
        assert image.getpixel((0, 0)) == 255
