"""The command line, from training to measures, at tiny size; and its errors, one line each."""

import dataclasses
import gzip
import hashlib
import json
import os
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from guidance_jax.app import cli
from guidance_jax.datasets import splice


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """`guidance-jax ARGUMENTS` in a folder of its own: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cli, "console", cli.Console(width=120))

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["guidance-jax", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capfd.readouterr()
        return SimpleNamespace(returncode=left.value.code or 0, stdout=out, stderr=err)

    call.folder = tmp_path
    yield call
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])


def test_demos_of_sequences_say_how_to_get_their_data(run):
    for task, package in (("splice", "mavenn==1.1.4"), ("text", "vaderSentiment==3.3.2")):
        left = run("demo", "--task", task, "--out", "demo")
        assert left.returncode == 2
        assert left.stderr.strip().count("\n") == 0
        assert package in left.stderr
    left = run("demo", "--task", "poems")
    assert "--task is one of digits, splice, text, got 'poems'" in left.stderr


@pytest.mark.slow
def test_the_splice_demo_on_made_up_sites(run, monkeypatch):
    """All methods run and are measured, on 300 random sites in the place of the real file."""
    rng = np.random.default_rng(0)
    sites = {"".join(rng.choice(list("ACGU"), 3)) + "GU" + "".join(rng.choice(list("ACGU"), 4)) for _ in range(300)}
    lines = ["x,y", *(f"{s},{rng.normal():.3f}" for s in sorted(sites))]
    content = gzip.compress("\n".join(lines).encode())
    (run.folder / "mpsa_data.csv.gz").write_bytes(content)
    expected = dataclasses.replace(splice.MPSA, sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(splice, "MPSA", expected)
    left = run("demo", "--task", "splice", "--data", ".", "--out", "demo", "--quick", "--samples", 20)
    assert left.returncode == 0, left.stderr
    rows = json.loads((run.folder / "demo" / "splice.json").read_text())["rows"]
    assert len(rows) > 20
    assert all(np.isfinite(row["measures"]["kl"]) for row in rows)
    assert "LaMBO-2" in left.stdout


@pytest.mark.slow
def test_train_sample_evaluate(run):
    sizes = ("--steps", 16, "--classifier-steps", 16, "--judge-steps", 40, "--width", 8, "--batch", 16)
    trained = run("train", "--out", "models", *sizes)
    assert trained.returncode == 0, trained.stderr
    assert "Noisy classifier, held out" in trained.stdout
    assert {p.name for p in (run.folder / "models").iterdir()} == {"denoiser", "classifier", "judge"}

    common = ("sample", "--models", "models", "--n", 20, "--steps", 4)
    for options in (("--out", "a.npz", "--batch", 7), ("--out", "job", "--batch", 4, "--shard", 6)):
        done = run(*common, *options)
        assert done.returncode == 0, done.stderr
    a, b = np.load(run.folder / "a.npz"), np.load(run.folder / "job" / "samples.npz")
    assert (a["arr_0"].dtype, a["arr_0"].shape) == (np.uint8, (20, 8, 8, 1))
    assert a["arr_1"].tolist() == [*range(10)] * 2
    assert np.abs(a["arr_0"].astype(int) - b["arr_0"]).max() <= 1  # the same samples, whatever the batch, shards or not
    np.testing.assert_array_equal(a["arr_1"], b["arr_1"])
    assert (run.folder / "a.png").exists()

    measured = run("evaluate", "--models", "models", "--samples", "a.npz", "--out", "measures.json")
    assert measured.returncode == 0, measured.stderr
    report = json.loads((run.folder / "measures.json").read_text())
    assert 0 <= report["accuracy"]["value"] <= 1
    assert report["samples"] == 20

    for arguments, message in (
        (("train", "--out", "models", *sizes[:-1], 32), "batch: 16 there, 32 here"),
        (("sample", "--models", "models", "--out", "c.npz", "--algorithm", "magic"), "got 'magic'"),
        (("sample", "--models", "models", "--out", "c.npz", "--label", 12), "got 12"),
        (("sample", "--models", "models", "--out", "c.txt"), "write --out c.npz"),
        ((*common, "--out", "job", "--shard", 6, "--seed", 1), "another job (seed: 0 there, 1 here)"),
        ((*common, "--out", "c.npz", "--devices", 99), "got devices=99"),
        (("evaluate", "--models", "models", "--samples", "measures.json"), "not a sample file"),
    ):
        refused = run(*arguments)
        assert refused.returncode == 2
        assert message in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1
    assert not (run.folder / "c.npz").exists()


def test_missing_models_and_data_are_one_line(run):
    for arguments, message in (
        (("sample", "--models", "nowhere", "--out", "x.npz"), "not a guidance_jax checkpoint"),
        (("train", "--out", "m", "--data", "nowhere"), "write --data digits"),
    ):
        refused = run(*arguments)
        assert refused.returncode == 2
        assert message in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1
