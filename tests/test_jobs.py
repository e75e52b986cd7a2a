"""Sampling on several devices and processes, and jobs that are killed: the same samples, none lost, none doubled."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import guidance_jax as gj
from guidance_jax.jobs import Job

ROOT = Path(__file__).parent.parent
PROGRAM = """
import sys
import jax, jax.numpy as jnp, numpy as np
if len(sys.argv) > 3:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{sys.argv[2]}", 2, int(sys.argv[3]))
import guidance_jax as gj

from guidance_jax.sharding import generate_on, sample_mesh
model = gj.GaussianMixture(jnp.array([[2.0, 0.3], [-1.0, 1.5]]), 0.5, jnp.array([0.4, 0.6]))
kernel, levels = gj.Reverse(gj.CFG(model, 2, 2.0), gj.DDIM(1.0)), gj.Cosine().levels(20)
x = generate_on(sample_mesh(), gj.keys(0, 21), kernel, levels, (2,), jnp.arange(21) % 2)
if len(sys.argv) <= 3 or sys.argv[3] == "0":
    np.save(sys.argv[1], x)
print(len(jax.devices()), jax.process_count())
"""


def environment(devices):
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }


def alone():
    model = gj.GaussianMixture(jnp.array([[2.0, 0.3], [-1.0, 1.5]]), 0.5, jnp.array([0.4, 0.6]))
    kernel = gj.Reverse(gj.CFG(model, 2, 2.0), gj.DDIM(1.0))
    return gj.generate(gj.keys(0, 21), kernel, gj.Cosine().levels(20), (2,), jnp.arange(21) % 2)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 8])
def test_samples_do_not_depend_on_the_number_of_devices(devices, tmp_path):
    """21 samples, which neither 2 nor 8 devices divide."""
    out = tmp_path / "x.npy"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(out)],
        env=environment(devices),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(devices), "1"]
    np.testing.assert_allclose(np.load(out), alone(), atol=1e-5)


@pytest.mark.slow
def test_two_processes_draw_the_same_samples(tmp_path):
    """`jax.distributed` on the loopback address, gloo collectives."""
    out = tmp_path / "x.npy"
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(out), str(port), str(rank)],
            env=environment(2),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for process in running:
            text, error = process.communicate(timeout=120)
            assert process.returncode == 0, error
            assert text.split()[-2:] == ["4", "2"]
    finally:
        for process in running:
            process.kill()
    np.testing.assert_allclose(np.load(out), alone(), atol=1e-5)


COLLECTIVES = """
import jax, jax.numpy as jnp, re
from jax.sharding import NamedSharding, PartitionSpec
import guidance_jax as gj
from guidance_jax.networks.adm import ADMUNet, ADMClassifier

from guidance_jax.sharding import AXIS, sample_mesh
options = dict(num_res_blocks=1, attention_resolutions=(2,), channel_mult=(1, 2), groups=8, time_scale=1000.0)
unet, net = ADMUNet(8, 1, num_classes=3, **options), ADMClassifier(8, 2, **options)
x, t, y = jnp.zeros((8, 8, 1)), jnp.zeros(()), jnp.zeros((), int)
model = gj.Network(unet.init(jax.random.key(0), x, t, y), unet.apply, gj.parameterizations.v)
guide = gj.NoisyClassifier(net.init(jax.random.key(1), x, t), net.apply)
kernel = gj.Reverse(gj.Classifier(gj.CFG(model, 2, 2.0), guide, 1.0), gj.DDIM(1.0))
mesh = sample_mesh()
split = NamedSharding(mesh, PartitionSpec(AXIS))
keys, cond = jax.device_put((gj.keys(0, 16), jnp.zeros(16, int)), split)
from guidance_jax.sample import _generate

hlo = _generate.lower(keys, kernel, gj.Cosine().levels(4), (8, 8, 1), cond, None).compile().as_text()
names = r"all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
print(sorted(set(re.findall(names, hlo))), "while" in hlo)
"""


@pytest.mark.slow
def test_no_collective_in_the_compiled_loop():
    """Eight devices, the ADM networks with a classifier gradient: XLA's program holds the loop and no collective."""
    done = subprocess.run(
        [sys.executable, "-c", COLLECTIVES],
        env=environment(8),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[] True"


def test_more_devices_than_there_are():
    with pytest.raises(ValueError, match=r"there are 1 devices \(cpu\), got devices=3"):
        gj.sample_mesh(3)


def test_one_device_is_generate():
    before = alone()
    model = gj.GaussianMixture(jnp.array([[2.0, 0.3], [-1.0, 1.5]]), 0.5, jnp.array([0.4, 0.6]))
    kernel = gj.Reverse(gj.CFG(model, 2, 2.0), gj.DDIM(1.0))
    x = gj.generate_on(gj.sample_mesh(1), gj.keys(0, 21), kernel, gj.Cosine().levels(20), (2,), jnp.arange(21) % 2)
    np.testing.assert_allclose(x, before, atol=1e-5)
    with pytest.raises(ValueError, match=r"one condition per key \(21\), got shape \(2,\)"):
        gj.generate_on(gj.sample_mesh(), gj.keys(0, 21), kernel, gj.Cosine().levels(20), (2,), jnp.arange(2))


def slow_draw(indices):
    """Samples by index, some time each, so that a kill finds it at work."""
    time.sleep(0.004)
    x = np.stack([np.random.default_rng(i).random((4, 4, 1)) for i in indices])
    return (255 * x).astype(np.uint8), np.asarray(indices) % 10


ABOUT = {"seed": 3}


def work(folder, n, shard):
    Job(folder, n, ABOUT, shard).run(slow_draw)


@pytest.mark.slow
def test_thirty_kills_lose_and_double_nothing(tmp_path):
    """SIGKILL at 30 random moments of one job, then an undisturbed end: all samples, those of an uninterrupted run."""
    n, shard, kills = 1500, 5, 0
    forked, generator = multiprocessing.get_context("forkserver"), np.random.default_rng(0)
    while kills < 30:
        process = forked.Process(target=work, args=(tmp_path / "killed", n, shard))
        process.start()
        ready = time.monotonic()
        while not (tmp_path / "killed" / "manifest.json").exists() and time.monotonic() - ready < 60:
            time.sleep(0.01)
        time.sleep(0.02 + 0.15 * generator.random())
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.join()
        assert len(Job(tmp_path / "killed", n, ABOUT, shard).missing()) > 0, "the job must outlast the kills"
    work(tmp_path / "killed", n, shard)
    work(tmp_path / "whole", n, shard)
    with np.load(tmp_path / "killed" / "samples.npz") as a, np.load(tmp_path / "whole" / "samples.npz") as b:
        assert a["arr_0"].shape == (n, 4, 4, 1)
        np.testing.assert_array_equal(a["arr_1"], np.arange(n) % 10)
        np.testing.assert_array_equal(a["arr_0"], b["arr_0"])
    assert not list((tmp_path / "killed").glob(".part-*"))


def test_a_finished_job_draws_nothing_and_a_damaged_shard_is_drawn_again(tmp_path):
    drawn = []

    def draw(indices):
        drawn.append(indices.start)
        return slow_draw(indices)

    job = Job(tmp_path / "j", 23, ABOUT, 5)
    path, bad = job.run(draw)
    assert drawn == [0, 5, 10, 15, 20]
    assert bad == 0
    Job(tmp_path / "j", 23, ABOUT, 5).run(draw)
    assert len(drawn) == 5
    job.path(2).write_bytes(job.path(2).read_bytes()[:100])
    job.run(draw)
    assert drawn[5:] == [10]
    with np.load(path) as file:
        assert file["arr_0"].dtype == np.uint8
        assert len(file["arr_0"]) == 23


def test_samples_that_are_not_finite_are_counted(tmp_path):
    def draw(indices):
        x = np.ones((len(indices), 2), np.float32)
        x[::2] = np.nan
        return x, np.zeros(len(indices), int)

    assert Job(tmp_path / "j", 10, {}, 5).run(draw)[1] == 6


def test_folders_of_something_else_are_refused_and_left_alone(tmp_path):
    Job(tmp_path / "j", 10, {"seed": 3, "scale": 2.0}, 5)
    for changed, message in (
        ({"seed": 4, "scale": 2.0}, r"another job \(seed: 3 there, 4 here\)"),
        ({"seed": 3}, r"scale: 2.0 there, None here"),
    ):
        with pytest.raises(ValueError, match=message):
            Job(tmp_path / "j", 10, changed, 5)
    with pytest.raises(ValueError, match=r"n: 10 there, 11 here"):
        Job(tmp_path / "j", 11, {"seed": 3, "scale": 2.0}, 5)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(ValueError, match="not empty and holds no job"):
        Job(tmp_path / "mine", 10, {}, 5)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="cannot be written"):
        Job(tmp_path / "file" / "j", 10, {}, 5)
    (tmp_path / "j" / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        Job(tmp_path / "j", 10, {}, 5)


def test_a_full_disk_is_one_line_and_keeps_what_there_is(tmp_path, monkeypatch):
    job = Job(tmp_path / "j", 20, {}, 5)
    count = iter(range(100))

    def fsync(descriptor):
        if next(count) >= 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(ValueError, match=r"the disk is full; no part of it was written") as caught:
        job.run(slow_draw)
    assert "\n" not in str(caught.value)
    assert job.missing() == [2, 3]
    assert not list((tmp_path / "j").glob(".part-*"))
    assert json.loads((tmp_path / "j" / "manifest.json").read_text())["n"] == 20
