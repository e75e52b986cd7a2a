"""Several processes on one folder: each shard drawn once, whoever dies; one file from many, and measures of many."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import guidance_jax as gj
from guidance_jax import claims
from guidance_jax.app.commands import evaluate as command
from guidance_jax.app.workers import read_worker
from guidance_jax.claims import CLAIM, Claims
from guidance_jax.jobs import Job
from guidance_jax.metrics import InceptionExtractor, Moments, Reference, extract_features, measure_features
from guidance_jax.metrics.inception_network import InceptionFeatures
from guidance_jax.places import create, find_place, is_remote, open_arrays, read_mark, touch

ABOUT = {"seed": 3}
FORKED = multiprocessing.get_context("forkserver")


def samples_of(indices):
    x = np.stack([np.random.default_rng(i).random((4, 4, 3)) for i in indices])
    return (255 * x).astype(np.uint8), np.asarray(indices) % 10


@pytest.fixture(params=["disk", "store"])
def place(request, tmp_path, monkeypatch):
    """A folder of a job on a disk, and in an object store, whose notes of what was drawn lie on the disk."""
    if request.param == "disk":
        return tmp_path / "j"
    monkeypatch.chdir(tmp_path)
    return find_place(f"memory://{tmp_path.name}/j")


def noted(folder):
    """The file beside a folder that says which shards were drawn."""
    return Path(f"{folder.name}.drawn") if is_remote(folder) else Path(f"{folder}.drawn")


def work(folder, n, shard, worker, seconds=0.0, expires=120.0, ahead=0.0, ready=None, collect=False):
    """One worker; what it draws is noted beside. `ahead`: how many seconds its clock is off."""
    if ahead:
        own = time.time
        time.time = lambda: own() + ahead

    def draw(indices):
        with noted(folder).open("a") as file:
            file.write(f"{indices.start // shard}\n")
        time.sleep(seconds)
        return samples_of(indices)

    if ready is not None:
        ready.wait()
    Job(folder, n, ABOUT, shard).run(draw, worker=worker, collect=collect, expires=expires)


def drawn(folder):
    return [int(line) for line in noted(folder).read_text().split()]


def start(*arguments, **options):
    process = FORKED.Process(target=work, args=arguments, kwargs=options)
    process.start()
    return process


def arrays(path):
    with open_arrays(path) as file:
        return file["arr_0"], file["arr_1"]


def test_the_engine_says_which_worker_this_is():
    slurm = {"SLURM_PROCID": "2", "SLURM_NTASKS": "8"}
    array = {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "10"}
    for environment, worker in (
        ({}, None),
        (slurm, (2, 8)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, None),
        (array, (4, 10)),
        (array | {"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, (9, 20)),
        ({"RANK": "1", "WORLD_SIZE": "4"}, (1, 4)),
        ({"RANK": "1"}, None),
        ({"SKYPILOT_NODE_RANK": "0", "SKYPILOT_NUM_NODES": "3"}, (0, 3)),
        ({"JOB_COMPLETION_INDEX": "6"}, (6, 7)),
        ({"RANK": "one", "WORLD_SIZE": "4"}, None),
    ):
        assert read_worker(None, environment) == worker
    assert read_worker("3/4", slurm) == (3, 4)
    for bad in ("4/4", "1", "-1/4", "a/b", "1/0", "0/0"):
        with pytest.raises(gj.Refused, match="--worker must be K/N"):
            read_worker(bad, {})


@pytest.mark.slow
def test_workers_share_a_folder_and_draw_each_shard_once(tmp_path):
    folder, n, shard = tmp_path / "j", 120, 5
    ready = FORKED.Barrier(3)
    workers = [start(folder, n, shard, (k, 3), 0.03, ready=ready) for k in range(3)]
    for process in workers:
        process.join(120)
        assert process.exitcode == 0
    assert sorted(drawn(folder)) == list(range(24))
    assert not list(folder.glob(f"{CLAIM}*"))
    assert not (folder / "samples.npz").exists()
    work(folder, n, shard, (0, 1), collect=True)
    assert sorted(drawn(folder)) == list(range(24))  # nothing again
    images, labels = arrays(folder / "samples.npz")
    np.testing.assert_array_equal(images, samples_of(range(n))[0])
    np.testing.assert_array_equal(labels, np.arange(n) % 10)


def test_workers_share_an_object_store(monkeypatch, tmp_path):
    """Threads in the place of machines; a claim whose holder died is taken over, a damaged shard drawn again."""
    monkeypatch.chdir(tmp_path)
    address = f"memory://{tmp_path.name}/job"
    folder, n, shard = find_place(address), 60, 5
    Job(address, n, ABOUT, shard)
    assert create(folder / f"{CLAIM}00003", "elsewhere 1 a")
    assert not create(folder / f"{CLAIM}00003", "elsewhere 2 b")
    threads = [
        threading.Thread(target=work, args=(folder, n, shard, (k, 3), 0.02), kwargs={"expires": 1.0}) for k in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert set(drawn(folder)) == set(range(12))
    assert sum(drawn(folder).count(i) - 1 for i in range(12) if i != 3) == 0
    assert sorted(path.name for path in folder.iterdir()) == [
        "manifest.json",
        *(f"shard_{i:05d}.npz" for i in range(12)),
    ]
    (folder / "shard_00002.npz").write_bytes((folder / "shard_00001.npz").read_bytes())  # another's place
    (folder / "shard_00004.npz").write_bytes(b"damaged")
    before = len(drawn(folder))
    work(folder, n, shard, (0, 1), collect=True)
    assert sorted(drawn(folder)[before:]) == [2, 4]
    np.testing.assert_array_equal(arrays(folder / "samples.npz")[0], samples_of(range(n))[0])
    with pytest.raises(gj.Refused, match=r"belongs to another job \(seed: 3 there, 4 here\)"):
        Job(address, n, {"seed": 4}, shard)
    (folder / "manifest.json").unlink()
    with pytest.raises(gj.Refused, match="is not empty and holds no job"):
        Job(address, n, ABOUT, shard)


def test_addresses_that_nothing_reaches_are_one_line(monkeypatch):
    with pytest.raises(gj.Refused, match="nowhere://a/b cannot be reached"):
        find_place("nowhere://a/b")
    monkeypatch.setitem(sys.modules, "upath", None)
    with pytest.raises(gj.Refused, match=r"guidance_jax\[cloud\]"):
        find_place("gs://bucket/job")
    assert find_place("a/b") == Path("a/b") == find_place(Path("a/b"))


@pytest.mark.slow
def test_forty_kills_of_four_workers_cost_the_shards_at_work_and_nothing_else(tmp_path):
    """Two start late, one has a clock an hour off; killed ones are started again."""
    folder, n, shard, kills = tmp_path / "j", 1_600, 5, 0
    generator = np.random.default_rng(0)
    ahead = [0.0, 0.0, 3_600.0, -3_600.0]

    def begin(k):
        return start(folder, n, shard, (k, 4), 0.05, expires=30.0, ahead=ahead[k])

    workers = {0: begin(0), 1: begin(1)}
    begun = time.monotonic()
    while kills < 40:
        if len(workers) < 4 and time.monotonic() - begun > 1.5:
            workers |= {2: begin(2), 3: begin(3)}
        time.sleep(0.1 + 0.2 * generator.random())
        k = int(generator.choice(list(workers)))
        if workers[k].is_alive():
            os.kill(workers[k].pid, signal.SIGKILL)
            kills += 1
        workers[k].join()
        assert Job(folder, n, ABOUT, shard).missing(), "the job must outlast the kills"
        workers[k] = begin(k)
    for process in workers.values():
        process.join(300)
        assert process.exitcode == 0
    found = drawn(folder)
    assert set(found) == set(range(n // shard))
    assert len(found) <= n // shard + kills
    work(folder, n, shard, (0, 1), collect=True)
    assert len(drawn(folder)) == len(found)
    np.testing.assert_array_equal(arrays(folder / "samples.npz")[0], samples_of(range(n))[0])
    assert not list(folder.glob(".part-*"))


@pytest.mark.slow
def test_four_workers_are_nearly_four_times_as_fast(tmp_path, measured):
    """Of draws that only sleep, so that the claims are what is measured."""

    def seconds(count):
        folder, ready = tmp_path / str(count), FORKED.Barrier(count + 1)
        workers = [start(folder, 40, 1, (k, count), 0.5, ready=ready) for k in range(count)]
        ready.wait()
        begun = time.monotonic()
        for process in workers:
            process.join()
        assert len(drawn(folder)) == 40
        return time.monotonic() - begun

    one, four = seconds(1), seconds(4)
    measured("speed-up of four workers", one / four)
    assert one / four > 3.8


def test_claims_are_of_one_and_expire_by_the_watch_of_who_looks(place, monkeypatch):
    place.mkdir(parents=True)
    a, b = Claims(place, expires=60.0), Claims(place, expires=60.0)
    assert a.take("x")
    assert not b.take("x")
    assert not a.take("x")
    now = time.monotonic()
    monkeypatch.setattr(claims.time, "monotonic", lambda: now + 50)
    assert not b.take("x")
    touch(a.path("x"))  # its holder lives
    monkeypatch.setattr(claims.time, "monotonic", lambda: now + 100)
    assert not b.take("x")
    monkeypatch.setattr(claims.time, "monotonic", lambda: now + 170)
    assert b.take("x")
    a.release("x")  # not its any more
    assert b.path("x").exists()
    b.release("x")
    assert not list(place.iterdir())
    gone = f"{claims.socket.gethostname()} {2**22 + 7} abc"  # a process of this machine that is no more
    b.path("y").write_text(gone)
    assert a.take("y")


def test_claims_are_touched_while_they_are_held(place):
    place.mkdir(parents=True)
    with Claims(place, expires=0.3).touching() as own:
        assert own.take("x")
        before = read_mark(own.path("x"))
        time.sleep(0.4)
        assert read_mark(own.path("x")) != before
        own.path("x").write_text("elsewhere 1 a")  # taken over: it is left alone
        before = read_mark(own.path("x"))
        time.sleep(0.4)
        assert read_mark(own.path("x")) == before
    assert [path.name for path in place.iterdir()] == [f"{CLAIM}x"]


def test_a_claim_made_between_look_and_taking_is_put_back(tmp_path, monkeypatch):
    """Two find a claim abandoned; the slower one finds a new holder's under the name, and leaves it."""
    slow, fast = Claims(tmp_path, expires=0.0), Claims(tmp_path, expires=0.0)
    slow.path("x").write_text("elsewhere 1 a")
    own = os.rename

    def renamed(source, target):
        monkeypatch.setattr(claims.os, "rename", own)
        assert fast.take("x")
        own(source, target)

    monkeypatch.setattr(claims.os, "rename", renamed)
    assert not slow.take("x")
    assert fast.path("x").read_text() == fast.token


def test_a_damaged_file_of_all_samples_is_written_again(place):
    folder = place
    work(folder, 20, 5, (0, 1), collect=True)
    whole = (folder / "samples.npz").read_bytes()
    with open_arrays(folder / "samples.npz") as file:
        assert set(file.files) == {"arr_0", "arr_1", "seal"}
    for damage in (whole[:-200], whole[:300] + bytes([whole[300] ^ 1]) + whole[301:], b""):
        (folder / "samples.npz").write_bytes(damage)
        work(folder, 20, 5, (0, 1), collect=True)
        assert (folder / "samples.npz").read_bytes() == whole
    assert sorted(drawn(folder)) == [0, 1, 2, 3]


MEMORY = """
import resource, sys
import numpy as np
from guidance_jax.jobs import Job
n = int(sys.argv[2])
def draw(indices):
    x = np.zeros((len(indices), 64, 64, 3), np.uint8)
    x += (np.asarray(indices) % 256).astype(np.uint8)[:, None, None, None]
    return x, np.asarray(indices) % 10
Job(sys.argv[1], n, {}, 500).run(draw)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_samples(tmp_path, measured):
    """Of 64 x 64 pictures: 50,000 of them are 614 MB."""

    def most(n):
        found = subprocess.run(
            [sys.executable, "-c", MEMORY, str(tmp_path / str(n)), str(n)], capture_output=True, text=True, check=True
        )
        return int(found.stdout) / 1024

    few, many = most(1_000), most(50_000)
    measured("megabytes for 1,000", few)
    measured("megabytes for 50,000", many)
    assert many < few + 100


class Stub(InceptionExtractor):
    """A small extractor: fixed random features of each image."""

    calls = 0

    def __init__(self):
        super().__init__((), "a stub")

    def __call__(self, images, batch=50):
        type(self).calls += 1
        flat = images.reshape(len(images), -1).astype(np.float32) / 255
        a, b, c = (np.random.default_rng(i).normal(size=(flat.shape[1], 6)).astype(np.float32) for i in range(3))
        return InceptionFeatures(*(np.stack([row @ m for row in flat]) for m in (a, b, c)))


@pytest.mark.parametrize("shard", [7, 50, 200])
def test_measures_of_a_folder_are_those_of_the_one_file(place, shard):
    folder = place
    work(folder, 200, shard, (0, 1), collect=True)
    images, labels = arrays(folder / "samples.npz")
    reference = Stub()(samples_of(range(1000, 1300))[0])
    reference = Reference(Moments.of(reference.pool), Moments.of(reference.spatial), reference.pool, "")
    want = measure_features(Stub()(images), reference)
    Stub.calls = 0
    features, own = extract_features(folder, Stub())
    np.testing.assert_array_equal(own, labels)
    got = measure_features(features, reference)
    assert set(got) == set(want) >= {"fid", "sfid", "precision", "recall", "kid"}
    for name in want:
        assert got[name] == pytest.approx(want[name], abs=1e-10, nan_ok=True)
    assert Stub.calls == -(-200 // shard)
    extract_features(folder, Stub())
    assert Stub.calls == -(-200 // shard)  # kept
    Job(folder, 200, ABOUT, shard).path(0).unlink()
    with pytest.raises(gj.Refused, match=f"1 of {-(-200 // shard)} shards"):
        extract_features(folder, Stub())
    work(folder, 200, shard, (0, 1))
    extract_features(folder, Stub())
    assert Stub.calls == -(-200 // shard)  # the same shard again


def test_the_command_measures_folders(tmp_path, monkeypatch, capsys):
    folder, reference = tmp_path / "j", tmp_path / "reference.npz"
    work(folder, 60, 20, (0, 1), collect=True)
    np.savez(reference, arr_0=samples_of(range(500, 600))[0])
    monkeypatch.setattr(command, "load_inception", lambda path: Stub())
    for samples, out in ((folder, tmp_path / "a.json"), (folder / "samples.npz", tmp_path / "b.json")):
        command.evaluate(str(samples), reference=reference, inception=None, measures="fid,precision", out=out)
    a, b = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    assert a["measures"] == b["measures"]
    assert a["protocol"]["n"] == 60
    assert a["protocol"]["sampling"]["n"] == 60
    with pytest.raises(gj.Refused, match="holds no job"):
        command.evaluate(str(tmp_path), reference=reference)


def test_a_manifest_of_another_version_is_refused(tmp_path):
    Job(tmp_path / "j", 10, ABOUT, 5, {"guidance_jax": "0.1"})
    with pytest.raises(gj.Refused, match=r"guidance_jax has changed since the job in .* was started"):
        Job(tmp_path / "j", 10, ABOUT, 5, {"guidance_jax": "0.2"})
