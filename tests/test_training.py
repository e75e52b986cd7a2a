"""Losses against their definitions; training that resumes bit for bit; checkpoints that refuse what they are not."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import guidance_jax as gj
from guidance_jax.app.recipe import fit_into
from guidance_jax.checkpoints.config import build, config, describe
from guidance_jax.checkpoints.store import Run, read_params
from guidance_jax.datasets import image_files
from guidance_jax.datasets.digits import digits
from guidance_jax.datasets.image_files import ImageFiles
from guidance_jax.datasets.image_folder import image_folder
from guidance_jax.datasets.images import Images
from guidance_jax.metrics.calibration import by_level, expected_calibration_error
from guidance_jax.models.parameterizations import EDM, LearnedRange
from guidance_jax.schedules import LinearVP
from guidance_jax.training.fit import batches, fit, mirrored
from guidance_jax.training.losses import Denoising, LogNormal, NoisyCrossEntropy, draw, drop
from guidance_jax.zoo.adm.network import ADMUNet
from guidance_jax.zoo.load import load

NETWORK = ADMUNet(8, 1, 1, (2,), (1, 2), groups=4, time_scale=1000.0, num_classes=11)
DOMAIN = gj.Domain((8, 8, 1), gj.Cosine(), 10, 10)
CONFIG = config(NETWORK, DOMAIN, gj.parameterizations.v, batch=16)
OPTIMIZER = optax.adam(1e-3)
LOSS = Denoising(NETWORK.apply, gj.Cosine(), gj.parameterizations.v, null=10, dropout=0.2)


@pytest.fixture(scope="module")
def data():
    return digits().take(np.arange(200))


@pytest.fixture(scope="module")
def params():
    return jax.jit(NETWORK.init)(jax.random.key(0), jnp.zeros((8, 8, 1)), jnp.zeros(()), jnp.zeros((), int))


def train(data, params, steps, directory=None, save_every=5):
    run = None if directory is None else Run(directory, CONFIG)
    return fit(LOSS, params, data, steps=steps, batch=16, optimizer=OPTIMIZER, run=run, save_every=save_every)


def identical(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


class Learned(nn.Module):
    """A denoiser with one number: output = w x."""

    @nn.compact
    def __call__(self, x, t, cond=None):
        return self.param("w", nn.initializers.zeros_init(), ()) * x


@pytest.mark.slow
def test_training_finds_the_best_constant_denoiser():
    """For unit Gaussian data on a VP schedule the best v is 0 x and the best eps is sigma x: least squares by hand."""
    x0 = np.random.default_rng(0).normal(size=(4000, 2, 2, 1)).astype(np.float32)
    data = Images(x0, np.zeros(4000, np.int32), ("all",))
    for parameterization, target in (
        (gj.parameterizations.v, lambda a, s: 0 * s),
        (gj.parameterizations.eps, lambda a, s: s),
        (gj.parameterizations.x0, lambda a, s: a),
    ):
        loss = Denoising(Learned().apply, gj.Cosine(), parameterization, labelled=False)
        start = Learned().init(jax.random.key(0), x0[0], 0.0)
        learned, _ = fit(loss, start, data, steps=300, batch=256, optimizer=optax.adam(0.02), ema=0.98)
        level = gj.Cosine()(jnp.linspace(0.001, 0.999, 1000))
        np.testing.assert_allclose(learned["params"]["w"], jnp.mean(target(level.alpha, level.sigma)), atol=0.03)


def test_conditioning_dropout_is_as_often_as_asked_and_never_invents_labels():
    keys = jax.random.split(jax.random.key(0), 20_000)
    dropped = np.asarray(jax.vmap(lambda key: drop(key, jnp.array(3), 10, 0.15))(keys))
    assert set(dropped) == {3, 10}
    assert abs((dropped == 10).mean() - 0.15) < 0.01
    assert drop(keys[0], jnp.array(3), None, 0.5) == 3


@pytest.mark.slow
def test_a_network_with_dropout_is_trained_with_it():
    """Other masks by other keys, and none without dropout; at 22a9048 the rate was ignored without a word."""
    x0, label = jnp.ones((8, 8, 1)), jnp.array(3)
    for rate in (0.0, 0.5):
        network = dataclasses.replace(NETWORK, dropout=rate)
        weights = jax.jit(network.init)(jax.random.key(0), x0, jnp.zeros(()), label)
        weights = jax.tree.map(lambda a: a + 0.1 * jax.random.normal(jax.random.key(a.size), a.shape), weights)
        text = str(
            jax.make_jaxpr(Denoising(network.apply, gj.Cosine(), gj.parameterizations.v))(
                weights, jax.random.key(1), x0, label
            )
        )
        plain = str(jax.make_jaxpr(lambda w, network=network: network.apply(w, x0, jnp.zeros(()), label))(weights))
        masks = text.count("random_bits") - plain.count("random_bits")
        assert (masks > 3) == (rate > 0), masks


@pytest.mark.slow
def test_levels_are_drawn_over_the_whole_schedule():
    keys = jax.random.split(jax.random.key(0), 20_000)
    for schedule, low, high in ((gj.Cosine(), 0.0, 1.0), (gj.LinearBetas(), 0, 999)):
        t = np.asarray(jax.vmap(lambda key, s=schedule: draw(key, s).t)(keys))
        assert low <= t.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < t.max() <= high
    log_ratio = np.log(jax.vmap(lambda key: LogNormal()(key, gj.VE()).sigma)(keys))
    np.testing.assert_allclose([log_ratio.mean(), log_ratio.std()], [-1.2, 1.2], atol=0.03)


@pytest.mark.slow
def test_a_noisy_classifier_learns_the_exact_posterior():
    """Two Gaussian classes on a line: logits a x + b at fixed t have a closed form; here the loss reaches it."""
    target = gj.GaussianMixture(jnp.array([[-1.0], [1.0]]), 0.3, jnp.array([0.3, 0.7]))
    x0 = np.concatenate([target.sample(jax.random.key(i), n, i) for i, n in ((0, 1200), (1, 2800))])
    labels = np.repeat([0, 1], [1200, 2800]).astype(np.int32)
    data = Images(np.asarray(x0).reshape(-1, 1, 1, 1), labels, ("a", "b"))

    class Classifier(nn.Module):
        @nn.compact
        def __call__(self, x, t):
            return nn.Dense(2)(nn.silu(nn.Dense(32)(nn.silu(nn.Dense(32)(jnp.stack([x.sum(), 4 * t]))))))

    loss = NoisyCrossEntropy(Classifier().apply, gj.Cosine())
    start = Classifier().init(jax.random.key(0), x0[0], jnp.zeros(()))
    learned, _ = fit(loss, start, data, steps=600, batch=256, optimizer=optax.adam(5e-3), ema=0.99)
    classifier = gj.NoisyClassifier(learned, Classifier().apply, batched=False)
    for ratio in (0.5, 1.5):
        level = gj.Cosine().by_ratio([ratio]).at(0)
        for x in (-1.0, 0.0, 0.7):
            point = jnp.full((1,), x) * level.alpha
            want = np.exp(target.log_posterior(point, level, 1))
            got = np.exp(classifier.log_prob(point.reshape(1, 1, 1), level, jnp.array(1)))
            assert abs(want - got) < 0.08


def test_batches_are_epochs_and_can_start_anywhere():
    order = batches(100, 30, seed=1, start=0)
    first = [next(order) for _ in range(7)]
    assert len(np.unique(np.concatenate(first[:3]))) == 90
    assert not np.array_equal(first[0], first[3])
    resumed = batches(100, 30, seed=1, start=5)
    np.testing.assert_array_equal(next(resumed), first[5])
    np.testing.assert_array_equal(next(resumed), first[6])


@pytest.mark.slow
def test_resumed_training_is_the_uninterrupted_one_bit_for_bit(tmp_path, data, params):
    whole, losses = train(data, params, 23)
    train(data, params, 12, tmp_path / "run")  # stops after 12: the last whole checkpoint is there
    resumed, again = train(data, params, 23, tmp_path / "run")
    assert identical(whole, resumed)
    np.testing.assert_array_equal(losses, again)
    loaded = load(tmp_path / "run", gj.Network)
    assert identical(loaded.params, whole)
    assert loaded.domain == DOMAIN
    assert loaded.parameterization == gj.parameterizations.v
    x = gj.generate(gj.keys(0, 2), gj.Reverse(loaded, gj.DDIM()), gj.Cosine().levels(3), (8, 8, 1), jnp.array([1, 10]))
    assert np.isfinite(x).all()


CHILD = """
import sys
sys.path.insert(0, {root!r})
from tests.test_training import *
data = digits().take(np.arange(200))
params = jax.jit(NETWORK.init)(jax.random.key(0), jnp.zeros((8, 8, 1)), jnp.zeros(()), jnp.zeros((), int))
print("ready", flush=True)
train(data, params, 24, {directory!r}, save_every=2)
"""


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_parameters(tmp_path, data, params):
    """Three SIGKILLs, each once another checkpoint is written, so while training goes on; then one run to the end."""
    directory, root = tmp_path / "run", str(Path(__file__).parent.parent)
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled")}
    child = [sys.executable, "-c", CHILD.format(root=root, directory=str(directory))]
    found = []
    for after in (0, 1, 4):  # whole checkpoints that are there before the kill
        process = subprocess.Popen(child, stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout.readline().strip() == "ready"
        deadline = time.monotonic() + 300
        while len(found) <= after and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
            found = sorted({*found, *(int(p.name) for p in directory.glob("[0-9]*") if p.name.isdigit())})
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert 0 < len(found) < 12, f"no kill fell into training: checkpoints {found}"
    subprocess.run(child, check=True, stdout=subprocess.PIPE, env=environment)
    whole, _ = train(data, params, 24)
    assert identical(load(directory, gj.Network).params, whole)


@pytest.mark.slow
def test_another_configuration_is_refused_and_named(tmp_path, data, params):
    train(data, params, 2, tmp_path / "run")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    other = config(NETWORK, gj.Domain((8, 8, 1), LinearVP(), 10, 10), gj.parameterizations.v, batch=16)
    with pytest.raises(ValueError, match=r"domain.schedule.type: 'Cosine' there, 'LinearVP' here"):
        Run(tmp_path / "run", other)
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}


def test_a_checkpoint_from_before_a_field_existed_goes_on(tmp_path):
    """What a configuration does not name has its default; another value of it is another configuration."""
    old = json.loads(json.dumps(CONFIG))
    del old["network"]["remat"], old["domain"]["guided_channels"]
    (tmp_path / "config.json").write_text(json.dumps(old))
    assert Run(tmp_path, CONFIG).latest() is None
    changed = config(dataclasses.replace(NETWORK, remat=True), DOMAIN, gj.parameterizations.v, batch=16)
    with pytest.raises(ValueError, match=r"network.remat: False there, True here"):
        Run(tmp_path, changed)


def test_a_foreign_folder_is_refused_and_untouched(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="not a guidance_jax checkpoint"):
        Run(tmp_path, CONFIG)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    (tmp_path / "config.json").write_text(json.dumps({"model": "theirs"}))
    with pytest.raises(ValueError, match="belongs to another program"):
        Run(tmp_path, CONFIG)
    with pytest.raises(ValueError, match="belongs to another program"):
        load(tmp_path, gj.Network)
    (tmp_path / "config.json").write_text('{"format": ')
    with pytest.raises(ValueError, match="damaged"):
        load(tmp_path, gj.Network)


@pytest.mark.slow
def test_a_truncated_checkpoint_is_refused_and_untouched(tmp_path, data, params):
    train(data, params, 2, tmp_path / "run")
    files = [p for p in (tmp_path / "run" / "2").rglob("*") if p.is_file()]
    largest = max(files, key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    with pytest.raises(ValueError, match="cannot be read") as caught:
        train(data, params, 4, tmp_path / "run")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="cannot be read"):
        load(tmp_path / "run", gj.Network)
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}


def test_configurations_survive_json_and_name_known_types_only():
    for thing in (
        NETWORK,
        DOMAIN,
        EDM(0.3),
        LearnedRange(gj.parameterizations.v),
        gj.LinearBetas(100),
        LinearVP(0.2, 15.0),
    ):
        assert build(json.loads(json.dumps(describe(thing)))) == thing
    with pytest.raises(ValueError, match="unknown type 'Popen'"):
        build({"type": "Popen", "args": "rm"})
    with pytest.raises(ValueError, match="a checkpoint can hold"):
        describe(gj.DDIM())


def test_a_batch_larger_than_the_data_is_refused(data):
    with pytest.raises(ValueError, match="1 to 200 samples, got batch=500"):
        fit(scaled, START, data, steps=1, batch=500, optimizer=OPTIMIZER)


def test_a_loss_that_explodes_is_an_error(data):
    with pytest.raises(ValueError, match="not finite at step"):
        fit(scaled, START, data, steps=6, batch=16, optimizer=optax.sgd(1e20))


def test_calibration_error_by_hand():
    """Two bins: four at 0.75, of which three right; two at 0.95, of which one right: (0 + |1.9 - 1|) / 6."""
    confidence, correct = np.array([0.75] * 4 + [0.95] * 2), np.array([1, 1, 1, 0, 1, 0])
    np.testing.assert_allclose(expected_calibration_error(confidence, correct), 0.9 / 6)


@pytest.mark.slow
def test_an_exact_classifier_is_calibrated():
    target = gj.GaussianMixture(jnp.array([[-1.0], [1.0]]), 0.6, jnp.array([0.3, 0.7]))
    x0 = np.concatenate([target.sample(jax.random.key(i), n, i) for i, n in ((0, 3000), (1, 7000))])
    data = Images(x0.reshape(-1, 1, 1, 1), np.repeat([0, 1], [3000, 7000]).astype(np.int32), ("a", "b"))

    def logits(params, x, t):
        return jnp.stack([target.log_posterior(x.ravel(), gj.Cosine()(t), i) for i in (0, 1)])

    reports = by_level(gj.NoisyClassifier((), logits, batched=False), data, gj.Cosine(), (0.5, 2.0))
    assert reports[0].accuracy > reports[1].accuracy > 0.6
    assert max(r.calibration_error for r in reports) < 0.02


def scaled(params, key, x0, label):
    """|| w x - 2 x ||^2 of `Learned`: a loss without networks of any size."""
    return jnp.mean((params["params"]["w"] * x0 - 2 * x0) ** 2)


START = {"params": {"w": jnp.zeros(())}}


def test_batches_of_any_source_train_the_same(data):
    """A loader that yields what `batches` would choose; it is passed over, not lost, when a run goes on."""

    def loader():
        for index in batches(len(data), 16, 0, 0):
            yield data.samples[index], data.labels[index]

    common = dict(steps=6, optimizer=OPTIMIZER)
    own, first = fit(scaled, START, data, batch=16, **common)
    streamed, second = fit(scaled, START, loader(), **common)
    assert identical(own, streamed)
    np.testing.assert_array_equal(first, second)
    with pytest.raises(gj.Refused, match="the data ended after 3 of 6 steps; repeat them, or train for 3"):
        fit(scaled, START, [next(loader())] * 3, **common)


def test_a_resumed_run_passes_over_the_batches_that_it_has_seen(tmp_path, data):
    def loader():
        for index in batches(len(data), 16, 0, 0):
            yield data.samples[index], data.labels[index]

    common = dict(optimizer=OPTIMIZER, save_every=3)
    whole, _ = fit(scaled, START, loader(), steps=6, **common)
    fit(scaled, START, loader(), steps=3, run=Run(tmp_path / "run", CONFIG), **common)
    again, _ = fit(scaled, START, loader(), steps=6, run=Run(tmp_path / "run", CONFIG), **common)
    assert identical(whole, again)


def test_augmentation_depends_on_seed_and_step_and_watching_sees_every_save(data):
    seen, watched = [], []

    def augment(samples, generator):
        seen.append(generator.random())
        return mirrored(samples, generator)

    options = dict(steps=5, batch=16, optimizer=OPTIMIZER, augment=augment, save_every=2)
    fit(scaled, START, data, watch=lambda step, ema, losses: watched.append((step, len(losses))), **options)
    fit(scaled, START, data, **options)
    assert seen[:5] == seen[5:]
    assert len(set(seen[:5])) == 5
    assert watched == [(2, 2), (4, 4), (5, 5)]
    images = np.arange(24.0).reshape(2, 2, 3, 2)
    flipped = mirrored(images, np.random.default_rng(0))
    assert all((f == i).all() or (f == i[:, ::-1]).all() for f, i in zip(flipped, images, strict=True))


def test_a_batch_over_devices_is_the_same_batch(data):
    """On one device here; `tests/test_scale.py` has eight. A batch that they do not divide is refused."""
    common = dict(steps=4, optimizer=OPTIMIZER)
    alone, _ = fit(scaled, START, data, batch=16, **common)
    meshed, _ = fit(scaled, START, data, batch=16, mesh=gj.sample_mesh(1), **common)
    assert identical(alone, meshed)


@pytest.fixture
def folder(tmp_path):
    """Two classes of 24 grey pictures in files, and a hidden one that is no picture."""
    image_kit = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for name in ("dark", "bright"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(24):
            pixels = rng.integers(0, 255, (9, 8)).astype(np.uint8)
            image_kit.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    return tmp_path / "photos"


def test_files_train_as_the_array_of_their_images_and_are_read_when_used(folder, monkeypatch):
    pytest.importorskip("grain")
    whole, files = (image_folder(folder, 8, "L", lazy=lazy) for lazy in (False, True))
    np.testing.assert_array_equal(files.images[np.array([3, 40])], whole.images[[3, 40]])
    np.testing.assert_array_equal(files.images[5], whole.images[5])
    assert files.images.shape == whole.images.shape
    assert files.images[:0].shape == (0, 8, 8, 1)
    for one, other in zip(files.split(), whole.split(), strict=True):
        np.testing.assert_array_equal(one.read(100).images, other.images)
    few = files.read(10)
    assert len(few) == 10
    assert all(any((image == other).all() for other in whole.images) for image in few.images)
    common = dict(steps=7, batch=16, optimizer=OPTIMIZER)
    own, first = fit(scaled, START, whole, **common)
    streamed, second = fit(scaled, START, files, **common)
    assert identical(own, streamed)
    np.testing.assert_array_equal(first, second)
    asked = []
    monkeypatch.setattr(image_files, "picture", lambda *given: asked.append(given) or pytest.fail("read"))
    files.take(np.arange(20)).split()
    assert asked == []


def test_pictures_of_a_finished_training_are_drawn_if_it_was_stopped_before_them(tmp_path, data):
    drawn = []

    def watch(step, params, losses):
        drawn.append((step, float(params["params"]["w"]), len(losses)))
        (tmp_path / "run/loss.png").write_bytes(b"")

    options = dict(batch=16, steps=4, rate=1e-3, seed=0, progress=None, save_every=4)
    setup = CONFIG | {"training": {"steps": 4}}
    fit_into(tmp_path / "run", setup, scaled, lambda key: START, data, **options)
    for _ in range(2):  # the second time they are there
        fit_into(tmp_path / "run", setup, scaled, lambda key: START, data, watch=watch, **options)
    saved = read_params(tmp_path / "run")
    assert drawn == [(4, float(saved["params"]["w"]), 4)]


def test_files_that_cannot_be_read_are_named_when_they_are_found(folder):
    pytest.importorskip("grain")
    (folder / "dark/bad.png").write_bytes(b"no picture")
    with pytest.raises(gj.Refused, match=r"1 of 49 images in .* cannot be used: .*bad\.png"):
        image_folder(folder, 8, "L", lazy=True)
    (folder / "dark/bad.png").write_bytes((folder / "dark/1.png").read_bytes()[:60])  # a header alone
    files = image_folder(folder, 8, "L", lazy=True)
    with pytest.raises(gj.Refused, match=r"bad\.png.*replace or remove it"):
        fit(scaled, START, files, steps=4, batch=16, optimizer=OPTIMIZER)


def test_a_folder_is_read_lazily_when_memory_is_short(folder, monkeypatch):
    wanted = 48 * 8 * 8 * 4
    for free, lazy in ((2 * wanted + 1, False), (2 * wanted - 1, True)):
        monkeypatch.setattr(sys.modules["guidance_jax.datasets.image_folder"], "total_memory", lambda free=free: free)
        assert isinstance(image_folder(folder, 8, "L", lazy=None).images, ImageFiles) == lazy


def test_a_full_disk_while_training_is_one_line_and_keeps_the_step_before(tmp_path, data, monkeypatch):
    run = Run(tmp_path / "run", CONFIG)
    fit(scaled, START, data, steps=2, batch=16, optimizer=OPTIMIZER, run=run, save_every=2)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run.manager, "save", full)
    with pytest.raises(gj.Refused, match=r"cannot be written .*; step 2 is kept: fix this and start again"):
        fit(scaled, START, data, steps=4, batch=16, optimizer=OPTIMIZER, run=run, save_every=2)
    monkeypatch.undo()
    assert Run(tmp_path / "run", CONFIG).latest() == 2
