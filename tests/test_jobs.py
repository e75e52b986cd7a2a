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

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import guidance_jax as gj
from guidance_jax.files import PART, content_hash, sweep
from guidance_jax.jobs import Job, contents, write_arrays
from guidance_jax.sharding import start_team
from tests.test_cli import run  # noqa: F401  a fixture

ROOT = Path(__file__).parent.parent
PROGRAM = """
import sys
import jax, jax.numpy as jnp, numpy as np
if len(sys.argv) > 3:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{sys.argv[2]}", 2, int(sys.argv[3]))
import guidance_jax as gj

from jax.sharding import Mesh
from guidance_jax.sharding import AXIS, Team, generate_on, sample_mesh
model = gj.GaussianMixture(jnp.array([[2.0, 0.3], [-1.0, 1.5]]), 0.5, jnp.array([0.4, 0.6]))
kernel, levels = gj.Reverse(gj.CFG(model, 2, 2.0), gj.DDIM(1.0)), gj.Cosine().levels(20)
x = generate_on(sample_mesh(), gj.keys(0, 21), kernel, levels, (2,), jnp.arange(21) % 2)
if len(sys.argv) <= 3 or sys.argv[3] == "0":
    np.save(sys.argv[1], x)
if jax.process_count() > 1:
    turns = Mesh(np.asarray(jax.devices())[[0, 2, 1, 3]], (AXIS,))
    try:
        generate_on(turns, gj.keys(0, 4), kernel, levels, (2,), jnp.arange(4) % 2, gather=False)
    except gj.Refused as error:
        assert "ordered by process" in str(error)
    else:
        raise SystemExit("its parts are not one behind the other")
print(len(jax.devices()), jax.process_count(), Team.of_processes().add(jax.process_index() + 1))
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
    assert done.stdout.split() == [str(devices), "1", "1"]
    np.testing.assert_allclose(np.load(out), alone(), atol=1e-5)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def run_two(commands, environments):
    """What two processes print that talk to each other over the loopback address."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", *command], env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for command, own in zip(commands, environments, strict=True)
    ]
    try:
        found = []
        for process in running:
            text, error = process.communicate(timeout=120)
            assert process.returncode == 0, error
            found.append(text)
        return found
    finally:
        for process in running:
            process.kill()


@pytest.mark.slow
def test_two_processes_draw_the_same_samples(tmp_path):
    """`jax.distributed` on the loopback address, gloo collectives."""
    out, port = tmp_path / "x.npy", free_port()
    for text in run_two([(PROGRAM, str(out), port, str(rank)) for rank in range(2)], [environment(2)] * 2):
        assert "4 2 3" in text.splitlines()  # gloo prints lines of its own, before or after
    np.testing.assert_allclose(np.load(out), alone(), atol=1e-5)


@pytest.mark.slow
def test_processes_of_one_program_write_their_own_shards(tmp_path):
    """Parameters split over the devices of both; 7 shards of 8, of which the last holds 2 samples."""
    model, _ = gj.examples.digits()
    gj.save(tmp_path / "m/denoiser", model)
    main = "from guidance_jax.app.cli import main; main()"
    asked = ("sample", "--models", str(tmp_path / "m"), "--n", "50", "--shard", "8", "--batch", "8", "--steps", "3")
    asked = (main, *asked, "--method", "CFG", "--collect", "--out")
    subprocess.run([sys.executable, "-c", *asked, str(tmp_path / "one")], env=environment(1), check=True, timeout=120)
    want = np.load(tmp_path / "one/samples.npz")
    command = (*asked, str(tmp_path / "two"), "--together", "--split")
    for lost in ((), (3,)):
        for i in lost:  # the other six are left as they are
            (tmp_path / f"two/shard_{i:05d}.npz").unlink()
        told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2"}
        before = {p: p.stat().st_mtime_ns for p in (tmp_path / "two").glob("shard_*")}
        run_two([command] * 2, [environment(2) | told | {"RANK": str(rank)} for rank in range(2)])
        found = np.load(tmp_path / "two/samples.npz")
        assert np.abs(found["arr_0"].astype(int) - want["arr_0"]).max() <= 1
        np.testing.assert_array_equal(found["arr_1"], want["arr_1"])
        changed = [p.name for p, when in before.items() if p.stat().st_mtime_ns != when]
        assert changed == []  # the second is drawn again beside the third, and left as it is
    assert not list((tmp_path / "two").glob(".*"))


TRAIN = """
import sys, jax, jax.numpy as jnp, numpy as np, optax
out, data, steps, port, rank, count, batch = sys.argv[1:]
if int(count) > 1: jax.distributed.initialize(f"127.0.0.1:{port}", int(count), int(rank))
import guidance_jax as gj
from guidance_jax.checkpoints.store import Run
from guidance_jax.datasets.image_folder import image_folder
from guidance_jax.training.fit import fit

images, read = image_folder(data, 8, "L", lazy=True), []
def loss(params, key, x0, label):
    return jnp.mean((params["w"] * x0 - 2 * x0 + params["b"][label] + 0.1 * jax.random.normal(key, x0.shape)) ** 2)
def keep(samples, generator):
    read.append(len(samples))
    return samples
start, rate = {"w": jnp.zeros(()), "b": jnp.zeros(2)}, optax.sgd(0.1, momentum=0.9)
run = Run(out, {"training": {"steps": int(steps)}})
options = dict(steps=int(steps), batch=16, optimizer=rate, run=run, save_every=2, mesh=gj.sample_mesh(), augment=keep)
ema, losses = fit(loss, start, images, **options)
weights = np.concatenate([np.ravel(a) for a in jax.tree.leaves(ema)]).tolist()
print()
print(sorted(set(read)), [*map(float, losses)], weights, sep="|")
"""


@pytest.mark.slow
def test_training_goes_on_with_another_number_of_processes_and_devices(tmp_path):
    """Two processes of two devices, one of eight, two of one: the losses and weights of one process on one device.

    Each process reads its own half of every batch from the files.
    """
    image_kit, rng = pytest.importorskip("PIL.Image"), np.random.default_rng(0)
    pytest.importorskip("grain")
    for name in ("dark", "bright"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(20):
            image_kit.fromarray(rng.integers(0, 255, (8, 8)).astype(np.uint8)).save(tmp_path / f"photos/{name}/{i}.png")

    def train(folder, steps, processes, devices):
        port = free_port()
        told = [
            (TRAIN, str(tmp_path / folder), str(tmp_path / "photos"), str(steps), port, str(rank), str(processes), "")
            for rank in range(processes)
        ]
        texts = run_two(told, [environment(devices)] * processes)
        found = [next(line for line in text.splitlines() if "|" in line).split("|") for text in texts]
        assert all(each[1:] == found[0][1:] for each in found)
        assert {each[0] for each in found} == {str([16 // processes])}
        return json.loads(found[0][1]), json.loads(found[0][2])

    whole = train("one", 6, 1, 1)
    train("many", 2, 2, 2)
    train("many", 4, 1, 8)
    for a, b in zip(train("many", 6, 2, 1), whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_one_program_needs_an_engine_and_a_folder(run, monkeypatch):  # noqa: F811
    for out, more in (("a.npz", ()), ("a", ("--devices", "1"))):
        left = run("sample", "--models", "m", "--together", "--out", out, *more)
        assert left.returncode == 2
        assert "--together is for a long job" in left.stderr
    with pytest.raises(gj.Refused, match="the processes of one program cannot connect to each other"):
        start_team({})
    told = {"MASTER_ADDR": "a", "MASTER_PORT": "29500", "WORLD_SIZE": "4", "RANK": "3"}
    asked = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *given: asked.append(given))
    for more in ({}, {"TORCHELASTIC_RUN_ID": "x"}):  # torchrun listens on its port itself
        start_team(told | more)
    assert asked == [("a:29500", 4, 3), ("a:29501", 4, 3)]


COLLECTIVES = """
import jax, jax.numpy as jnp, re
from jax.sharding import NamedSharding, PartitionSpec
import guidance_jax as gj
from guidance_jax.zoo.adm.network import ADMUNet, ADMClassifier

from guidance_jax.sharding import AXIS, sample_mesh
options = dict(num_res_blocks=1, attention_resolutions=(2,), channel_mult=(1, 2), groups=8, time_scale=1000.0)
unet, net = ADMUNet(8, 1, num_classes=3, **options), ADMClassifier(8, 2, **options)
x, t, y = jnp.zeros((8, 8, 1)), jnp.zeros(()), jnp.zeros((), int)
model = gj.Network(unet.init(jax.random.key(0), x, t, y), unet.apply, gj.parameterizations.v, batched=False)
guide = gj.NoisyClassifier(net.init(jax.random.key(1), x, t), net.apply, batched=False)
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


@pytest.mark.slow
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


def test_a_job_knows_content_and_not_only_names(tmp_path):
    """Weights, a classifier and a measurement that are replaced under their names, and a step that is renamed."""
    models, y = tmp_path / "models", tmp_path / "y.npy"
    for part in ("denoiser", "classifier", "judge"):
        (models / part / "24").mkdir(parents=True)
        (models / part / "config.json").write_text("{}")
        (models / part / "24" / "weights").write_bytes(part.encode())
        (models / part / "progress.png").write_bytes(b"a picture")
    (models / "my samples").mkdir()
    np.save(y, np.arange(4.0))

    def job():
        return Job(tmp_path / "j", 10, ABOUT, 5, contents(models, measurement=str(y), nothing=None))

    assert set(contents(models)) == {"denoiser", "classifier"}
    job()
    (models / "judge" / "24" / "weights").write_bytes(b"another judge")
    (models / "denoiser" / "progress.png").write_bytes(b"another picture")
    (models / "denoiser" / ".lock").write_text("")
    job()  # none of these decides a sample

    def refused(field):
        with pytest.raises(
            gj.Refused, match=rf"^{field} has changed since the job in .* was started; restore it, or"
        ) as caught:
            job()
        assert "\n" not in str(caught.value)

    (models / "classifier" / "24" / "weights").write_bytes(b"classifieR")
    refused("classifier")
    (models / "classifier").rename(tmp_path / "removed")
    refused("classifier")
    (tmp_path / "removed").rename(models / "classifier")
    (models / "classifier" / "24" / "weights").write_bytes(b"classifier")
    job()
    (models / "denoiser" / "24").rename(models / "denoiser" / "25")
    refused("denoiser")
    (models / "denoiser" / "25").rename(models / "denoiser" / "24")
    np.save(y, np.arange(4.0)[::-1])
    refused("measurement")


def test_content_hashes_are_of_content():
    """Equal for equal content, whatever holds it; another type, shape or key of the same bytes is other content."""
    x = np.arange(6, dtype=np.float32)
    assert content_hash({"a": x}) == content_hash({"a": jnp.asarray(x)})
    assert content_hash({"a": x[::2]}) == content_hash({"a": x[::2].copy()})
    others = [
        {"a": x},
        {"b": x},
        {"a": x.reshape(2, 3)},
        {"a": x.view(np.int32)},
        {"a": x[:3], "b": x[3:]},
        "ab",
        b"ab",
    ]
    others += [
        {"a": "ab"},
        {"a": b"ab"},
        {"a": 1},
        {"a": 1.0},
        {"a": jnp.zeros(2, jnp.bfloat16)},
        {"a": np.zeros((0, 3))},
    ]
    assert len({content_hash(other) for other in others}) == len(others)


def test_content_hashes_of_files_and_folders(tmp_path):
    for folder, names in (("one", ("a", "bc")), ("two", ("ab", "c"))):
        for name in names:
            (tmp_path / folder / name).parent.mkdir(exist_ok=True)
            (tmp_path / folder / name).write_text(name[0])
    assert content_hash(tmp_path / "one" / "a") == content_hash(tmp_path / "two" / "ab")
    assert content_hash(tmp_path / "one") != content_hash(tmp_path / "two")
    before = content_hash(tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "three")
    assert content_hash(tmp_path / "three") == before
    with pytest.raises(gj.Refused, match="nowhere cannot be read"):
        content_hash(tmp_path / "nowhere")


@pytest.mark.parametrize("what", ["of another job", "of another place", "with other samples", "without a seal"])
def test_a_valid_shard_that_is_not_this_jobs_is_drawn_again(tmp_path, what, capfd):
    job, other = Job(tmp_path / "j", 20, ABOUT, 5), Job(tmp_path / "other", 20, {"seed": 4}, 5)
    target, _ = job.run(slow_draw)
    other.run(lambda indices: (np.zeros((len(indices), 4, 4, 1), np.uint8), np.zeros(len(indices), int)))
    with np.load(target) as file:
        want = file["arr_0"]
    wrong = job.path(2)
    if what == "of another job":
        wrong.write_bytes(other.path(2).read_bytes())
    elif what == "of another place":
        wrong.write_bytes(job.path(1).read_bytes())
    else:
        with np.load(wrong) as file:
            arrays = dict(file)
        beside = {"seal": arrays["seal"]} if what == "with other samples" else {}
        write_arrays(wrong, arrays["arr_0"] + 1, arrays["arr_1"], **beside)
    again = Job(tmp_path / "j", 20, ABOUT, 5)
    assert again.missing() == [2]
    again.run(slow_draw, progress="sampling")
    assert capfd.readouterr().err.splitlines()[0] == "1 damaged or foreign shards are drawn again"
    with np.load(target) as file:
        np.testing.assert_array_equal(file["arr_0"], want)


def test_a_file_of_all_samples_that_is_another_jobs_is_written_again(tmp_path):
    job, other = Job(tmp_path / "j", 10, ABOUT, 5), Job(tmp_path / "other", 10, {"seed": 4}, 5)
    target, _ = job.run(slow_draw)
    want = target.read_bytes()
    target.write_bytes(
        other.run(lambda i: (np.zeros((len(i), 4, 4, 1), np.uint8), np.zeros(len(i), int)))[0].read_bytes()
    )
    job.run(slow_draw)
    with np.load(target) as file:
        np.testing.assert_array_equal(file["arr_0"], slow_draw(range(10))[0])
    assert len(target.read_bytes()) == len(want)


def test_a_shard_that_another_process_changes_meanwhile_is_not_taken(tmp_path):
    job = Job(tmp_path / "j", 10, ABOUT, 5)

    def draw(indices):
        if indices.start == 5:
            write_arrays(job.path(0), np.zeros((5, 4, 4, 1), np.uint8), np.zeros(5, int))
        return slow_draw(indices)

    with pytest.raises(gj.Refused, match=r"shard_00000.npz was changed by another process; run the same command again"):
        job.run(draw)
    assert not (tmp_path / "j" / "samples.npz").exists()


def test_fewer_samples_than_asked_for_are_refused(tmp_path):
    with pytest.raises(gj.Refused, match="draw was called for 5 samples, got 4 and 5 labels"):
        Job(tmp_path / "j", 10, {}, 5).run(lambda i: (np.zeros((len(i) - 1, 2)), np.zeros(len(i), int)))


def test_part_files_stay_while_their_process_lives(tmp_path):
    """A second job in the folder removes what the dead left, and leaves the first's part file alone."""
    Job(tmp_path, 10, {}, 5)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    here = socket.gethostname()
    mine, living = tmp_path / f"{PART}{here}-{os.getpid()}-abc", tmp_path / f"{PART}{here}-{child.pid}-x_1"
    fresh, old = tmp_path / f"{PART}elsewhere-7-abc", tmp_path / f"{PART}elsewhere-8-abc"
    unnamed = tmp_path / f"{PART}tmpabc"  # of a version before names
    for path in (mine, living, fresh, old, unnamed):
        path.write_text("")
    os.utime(old, (time.time() - 90_000,) * 2)
    Job(tmp_path, 10, {}, 5)
    assert [p.exists() for p in (mine, living, fresh, old, unnamed)] == [True, True, True, False, True]
    child.communicate(b"\n")
    sweep(tmp_path)
    assert [p.exists() for p in (mine, living)] == [True, False]


def test_two_jobs_that_begin_at_once_do_not_mix(tmp_path, monkeypatch):
    """The other's manifest comes between this one's look and its writing."""
    other = json.dumps({"format": "guidance_jax samples/2", "n": 10, "shard": 5, "seed": 4})
    monkeypatch.setattr(
        "guidance_jax.jobs.write_whole", lambda path, fill: (path.parent.mkdir(), path.write_text(other))
    )
    with pytest.raises(gj.Refused, match=r"another job \(seed: 4 there, 3 here\)"):
        Job(tmp_path / "j", 10, ABOUT, 5)
