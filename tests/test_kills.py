"""`guidance-jax train` and `sample`, killed at random moments: the results of an undisturbed run, one line at most.

GUIDANCE_JAX_KILLS says how many kills each of both takes, SIGKILL, SIGTERM and SIGINT in turn.
"""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from guidance_jax.checkpoints.store import read_params
from guidance_jax.zoo.examples import digits as example
from guidance_jax.zoo.networks import save

ROOT = Path(__file__).parent.parent
KILLS = int(os.environ.get("GUIDANCE_JAX_KILLS", "6"))
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# what is started in the background of a shell is told to ignore SIGINT
PROGRAM = """import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from guidance_jax.app.cli import main
print("ready", flush=True)
main()"""
LINE = "interrupted: everything saved so far is kept; run the same command again to continue"


class Command:
    """`guidance-jax ARGUMENTS` in a folder, which writes to `out`: for `seconds` if nothing disturbs it."""

    def __init__(self, folder, out, *arguments):
        self.folder, self.out, self.seconds = folder, folder / out, 0.0
        self.arguments = [*map(str, arguments), "--out", out]
        self.environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(ROOT),
            "XDG_CACHE_HOME": str(folder / "cache"),
        }

    def start(self):
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *self.arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout.readline().strip() == "ready"
        return process

    def whole(self):
        """Run it to its end."""
        process = self.start()
        self.wait(process)
        begin = time.monotonic()
        _, error = process.communicate(timeout=600)
        self.seconds = time.monotonic() - begin
        assert process.returncode == 0, error

    def files(self):
        return {str(path) for path in self.out.rglob("*")} if self.out.exists() else set()

    def wait(self, process):
        """Wait until it writes something, or ends."""
        before = self.files()
        while process.poll() is None and self.files() == before:
            time.sleep(0.005)

    def killed(self, kills, finished, generator):
        """Kill it `kills` times: one in four before it writes anything, the others while it writes.

        Whenever a run reaches its end, `finished()` looks at it and `out` is removed.
        """
        counts = dict.fromkeys((*SIGNALS, "ended before"), 0)
        while sum(counts[number] for number in SIGNALS) < kills:
            number = SIGNALS[sum(counts[number] for number in SIGNALS) % len(SIGNALS)]
            process = self.start()
            if generator.random() < 0.75:
                self.wait(process)
            time.sleep(self.seconds * generator.random())
            process.send_signal(number)
            _, error = process.communicate(timeout=600)
            assert "Traceback" not in error, error
            if process.returncode == 0:
                counts["ended before"] += 1
                finished()
                shutil.rmtree(self.out)
                continue
            counts[number] += 1
            if number == signal.SIGINT and process.returncode != -number:  # as that where the interpreter is going down
                assert process.returncode == 130, error
                assert error.strip().splitlines()[-1] == LINE
            else:
                assert process.returncode == -number, error
        self.whole()
        finished()
        return counts


@pytest.mark.release
def test_training_killed_at_random_moments_is_the_undisturbed_one(tmp_path, measured):
    generator, data = np.random.default_rng(0), tmp_path / "data"
    data.mkdir()
    for name, array in (
        ("images-idx3", generator.integers(0, 256, (120, 8, 8)).astype(np.uint8)),
        ("labels-idx1", (np.arange(120) % 2).astype(np.uint8)),
    ):
        head = b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
        (data / f"train-{name}-ubyte").write_bytes(head + array.tobytes())
    sizes = dict(steps=40, classifier_steps=24, judge_steps=24, width=8, batch=16, save_every=5)
    flags = [text for name, n in sizes.items() for text in (f"--{name.replace('_', '-')}", n)]
    command = Command(tmp_path, "models", "train", "--data", "data", "--preset", "quick", *flags)
    command.whole()  # compiles
    parts = ("denoiser", "classifier", "judge")
    want = [jax.tree.leaves(read_params(tmp_path / "models" / part)) for part in parts]
    shutil.rmtree(tmp_path / "models")
    command.whole()

    def finished():
        for part, expected in zip(parts, want, strict=True):
            folder = tmp_path / "models" / part
            for a, b in zip(jax.tree.leaves(read_params(folder)), expected, strict=True):
                np.testing.assert_array_equal(a, b)
            left = {p.name for p in folder.iterdir() if p.is_dir() or p.name.startswith(".part")}
            assert left == {str(sizes["steps" if part == "denoiser" else f"{part}_steps"])}

    finished()
    shutil.rmtree(tmp_path / "models")
    for what, count in command.killed(KILLS, finished, generator).items():
        measured(f"training, {getattr(what, 'name', what)}", count)


@pytest.mark.release
def test_sampling_killed_at_random_moments_is_the_undisturbed_one(tmp_path, measured):
    model, classifier = example()
    save(tmp_path / "models" / "denoiser", model)
    save(tmp_path / "models" / "classifier", classifier)
    flags = ("--n", 400, "--shard", 2, "--batch", 2, "--steps", 4, "--seed", 3)
    command = Command(tmp_path, "job", "sample", "--models", "models", *flags)
    command.whole()  # compiles
    with np.load(tmp_path / "job" / "samples.npz") as file:
        want = dict(file)
    shutil.rmtree(tmp_path / "job")
    command.whole()

    def finished():
        with np.load(tmp_path / "job" / "samples.npz") as file:
            for name, expected in want.items():
                np.testing.assert_array_equal(file[name], expected)
        assert not list((tmp_path / "job").glob(".part-*"))
        assert json.loads((tmp_path / "job" / "manifest.json").read_text())["n"] == 400

    finished()
    shutil.rmtree(tmp_path / "job")
    for what, count in command.killed(KILLS, finished, np.random.default_rng(1)).items():
        measured(f"sampling, {getattr(what, 'name', what)}", count)
