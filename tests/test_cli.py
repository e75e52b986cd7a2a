"""The command line, from training to measures, at tiny size; and its errors, one line each."""

import json
import os
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from guidance_jax.app import cli, parts, terminal
from guidance_jax.zoo.judge import TrainedJudge
from guidance_jax.zoo.load import load


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """`guidance-jax ARGUMENTS` in a folder of its own: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(terminal.console, "width", 120)

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["guidance-jax", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capfd.readouterr()
        return SimpleNamespace(returncode=left.value.code or 0, stdout=out, stderr=err)

    call.folder = tmp_path
    yield call
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])


@pytest.mark.slow
def test_a_flow_is_trained_sampled_and_measured(run):
    trained = run("train", "--model", "flow", "--preset", "quick", "--width", 8, "--out", "models")
    assert trained.returncode == 0, trained.stderr
    assert "bits per number, held out" in trained.stdout
    assert {p.name for p in (run.folder / "models").iterdir()} == {"denoiser", "judge", "data.json"}
    common = ("sample", "--models", "models", "--n", 20, "--out")
    for name, method in (("a.npz", "none"), ("b.npz", "CFG"), ("c.npz", "AffineGuidance")):
        done = run(*common, name, "--method", method, *(() if method == "none" else ("--scale", 3)))
        assert done.returncode == 0, done.stderr
    a, b, c = (np.load(run.folder / f"{name}.npz")["arr_0"] for name in "abc")
    assert (a.dtype, a.shape) == (np.uint8, (20, 8, 8, 1))
    assert not np.array_equal(a, b)
    assert not np.array_equal(b, c)
    measured = run("evaluate", "--models", "models", "--samples", "a.npz", "--out", "measures.json")
    assert measured.returncode == 0, measured.stderr
    for words, refused in {
        "--steps has no effect": run(*common, "x.npz", "--method", "CFG", "--steps", 20),
        "needs a classifier beside": run(*common, "x.npz", "--method", "Classifier"),
        "--model must be diffusion or flow": run("train", "--model", "gan", "--out", "other"),
        "for diffusion models": run("train", "--model", "flow", "--estimate", "--out", "other"),
    }.items():
        assert refused.returncode != 0
        assert words in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_train_sample_evaluate(run):
    sizes = ("--steps", 16, "--classifier-steps", 16, "--judge-steps", 40, "--width", 8, "--batch", 16)
    trained = run("train", "--out", "models", *sizes)
    assert trained.returncode == 0, trained.stderr
    assert "Noisy classifier, held out" in trained.stdout
    assert {p.name for p in (run.folder / "models").iterdir()} == {"denoiser", "classifier", "judge", "data.json"}
    assert {"progress.png", "loss.png"} < {p.name for p in (run.folder / "models" / "denoiser").iterdir()}

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
    predicted, _ = load(run.folder / "models" / "judge", TrainedJudge)(a["arr_0"] / 127.5 - 1)
    assert report["accuracy"]["value"] == pytest.approx(np.mean(predicted == a["arr_1"]))
    assert report["samples"] == 20

    for arguments, message in (
        (("train", "--out", "models", *sizes[:-1], 32), "batch: 16 there, 32 here"),
        (("sample", "--models", "models", "--out", "c.npz", "--method", "magic"), "there is no method called 'magic'"),
        (("sample", "--models", "models", "--out", "c.npz", "--label", 12), "got 12"),
        (("sample", "--models", "models", "--out", "c.txt"), "write --out c.npz"),
        ((*common, "--out", "job", "--shard", 6, "--seed", 1), "another job (seed: 0 there, 1 here)"),
        ((*common, "--out", "c.npz", "--devices", 99), "got devices=99"),
        (("evaluate", "--models", "models", "--samples", "measures.json"), "measures.json is not an .npz file"),
    ):
        refused = run(*arguments)
        assert refused.returncode == 2
        assert message in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1
    assert not (run.folder / "c.npz").exists()


def test_missing_models_and_data_are_one_line(run):
    for arguments, message in (
        (("sample", "--models", "nowhere", "--out", "x.npz"), "there is no folder nowhere; check the path"),
        (("train", "--out", "m", "--data", "nowhere"), "there is no folder 'nowhere'"),
    ):
        refused = run(*arguments)
        assert refused.returncode == 2
        assert message in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder as `train` leaves it, of the digits that ship with the package and a judge of some seconds."""
    from guidance_jax.app.data import remember
    from guidance_jax.app.recipe import Recipe, train_judge
    from guidance_jax.datasets.digits import digits
    from guidance_jax.zoo.examples import digits as example
    from guidance_jax.zoo.networks import save

    folder = tmp_path_factory.mktemp("models")
    model, classifier = example()
    save(folder / "denoiser", model)
    save(folder / "classifier", classifier)
    data = digits()
    train_judge(folder / "judge", data.split()[0], Recipe(judge_steps=60))
    remember(folder, "digits", 32, ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"))
    return folder


def test_methods_are_listed_from_the_classes_themselves(run):
    """Each with its first sentence and its options; one alone with its whole documentation."""
    listed = run("methods")
    assert listed.returncode == 0
    names = [name for name in parts.METHODS if f"  {name}  " in listed.stdout]
    assert names == [*parts.METHODS]
    assert len(names) >= 40
    assert "radius=15.0" in listed.stdout
    assert "Sadat" in run("methods", "apg").stdout
    assert "did you mean" in run("methods", "afg").stderr
    assert "Window(2.0, lo=0.19, hi=1.61)" in run("methods", "--model", "edm2-xxl").stdout
    assert "no published settings are listed for 'nothing'" in run("methods", "--model", "nothing").stderr


@pytest.mark.slow
def test_a_method_by_flags_and_by_file_draws_the_same(run, models):
    common = ("sample", "--models", models, "--n", 3, "--out")
    flags = ("--method", "cfg", "--set", "scale.name=Window", "--set", "scale.scale=3", "--set", "scale.lo=0.3")
    flags += ("--set", "scale.hi=5", "--solver", "ddim", "--set", "solver.eta=0.5", "--steps", 3, "--label", "seven")
    assert run(*common, "a.npz", *flags).returncode == 0
    (run.folder / "ask.toml").write_text(
        'steps = 3\nlabels = ["seven"]\n[method]\nname = "CFG"\n[method.scale]\nname = "Window"\nscale = 3.0\n'
        'lo = 0.3\nhi = 5.0\n[solver]\nname = "DDIM"\neta = 0.5\n'
    )
    left = run(*common, "b.npz", "--config", "ask.toml")
    assert left.returncode == 0, left.stderr
    a, b = np.load(run.folder / "a.npz"), np.load(run.folder / "b.npz")
    np.testing.assert_array_equal(a["arr_0"], b["arr_0"])
    assert a["arr_1"].tolist() == [7, 7, 7]
    assert (run.folder / "a.npz").stat().st_mode & 0o444 == 0o444 & ~os.umask(os.umask(0o22))


@pytest.mark.slow
def test_a_measurement_and_a_population(run, models):
    np.save(run.folder / "y.npy", np.zeros((4, 4, 1), np.float32))
    measured = ("--set", "measurement.operator.name=Downsample", "--set", "measurement.operator.factor=2")
    measured += ("--set", "measurement.observed=y.npy", "--set", "measurement.std=0.1")
    common = ("sample", "--models", models, "--n", 2, "--steps", 3, "--out")
    assert run(*common, "a.npz", "--method", "MMPS", *measured).returncode == 0
    left = run(*common, "b.npz", "--method", "Twisted", "--particles", 4, "--set", "smc.threshold=0.9")
    assert left.returncode == 0, left.stderr
    assert np.load(run.folder / "b.npz")["arr_0"].shape == (2, 8, 8, 1)


WRONG = {
    "an unknown method": (("--method", "CGF"), "did you mean CFG"),
    "an unknown option": (("--method", "APG", "--set", "radus=3"), "did you mean radius? its options are inner, null"),
    "an unknown solver": (("--solver", "DPM3"), "there is no solver called 'DPM3'; did you mean DPM2"),
    "an unknown grid": (("--grid", "cosine"), "known are uniform, karras, log_snr_uniform"),
    "an option of no grid": (("--grid", "karras", "--set", "grid.low=1"), "the grid karras has no options low"),
    "an unknown class": (("--label", "sevn"), "did you mean seven?"),
    "a class out of range": (("--label", "12"), "got 12"),
    "no assignment": (("--set", "scale"), "write --set scale=2.0"),
    "a value and a table": (("--set", "scale=1", "--set", "scale.name=Window"), "gives scale twice"),
    "not a number": (("--scale", "nan"), "--scale must be a finite number, got nan"),
    "a strange type": (("--dtype", "foo"), "--dtype must be float32, bfloat16 or float16, got 'foo'"),
    "no measurement": (("--method", "MMPS"), "MMPS needs operator"),
    "options of nothing": (("--method", "none", "--set", "scale=2"), "--method none takes no options"),
    "particles of no population": (
        ("--method", "CFG", "--set", "smc.threshold=1"),
        "smc options are for particle methods",
    ),
    "a missing file": (("--config", "none.toml"), "none.toml does not exist"),
    "a file that is no TOML": (("--config", "bad.toml"), "bad.toml cannot be read"),
    "a wrong key": (("--config", "key.toml"), "a configuration has no key 'scael'; did you mean scale? its keys are"),
    "a folder for a file": (("--out", "folder.npz"), "is a folder"),
    "a file for a folder": (("--out", "plain"), "plain is a file"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_requests_are_one_line_and_cost_nothing(run, models, what):
    flags, words = WRONG[what]
    (run.folder / "bad.toml").write_text("method = [")
    (run.folder / "key.toml").write_text("scael = 2.0")
    (run.folder / "folder.npz").mkdir()
    (run.folder / "plain").write_text("")
    where = () if "--out" in flags else ("--out", "x.npz")
    left = run("sample", "--models", models, "--n", 2, "--steps", 2, *where, *flags)
    assert left.returncode == 2
    assert words in left.stderr
    assert len(left.stderr.strip().splitlines()) == 1
    assert not (run.folder / "x.npz").exists()


@pytest.mark.slow
def test_wrong_training_is_one_line_and_leaves_nothing(run):
    from PIL import Image

    (run.folder / "photos" / "cat").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(run.folder / "photos" / "cat" / "a.png")
    (run.folder / "file").write_text("")
    for flags, words in (
        (("--width", 20), "widths must be multiples of 8, got 20; write --width 16"),
        (("--preset", "huge"), "--preset must be one of quick, small, standard"),
        (("--data", "photos"), "photos has one class, cat"),
        (("--dtype", "foo"), "got 'foo'"),
        (("--out", "file"), "file"),
    ):
        left = run("train", *(() if "--out" in flags else ("--out", "m")), *flags)
        assert left.returncode == 2, words
        assert words in left.stderr
        assert len(left.stderr.strip().splitlines()) == 1
    (run.folder / "photos" / "dog").mkdir()
    (run.folder / "photos" / "dog" / "broken.png").write_text("no picture")
    assert "broken.png" in run("train", "--out", "m", "--data", "photos").stderr
    for steps in (0, -3):
        assert run("train", "--out", "m", "--steps", steps).returncode == 2
    assert "temporary" in run("train", "--out", "m", "--estimate").stdout


@pytest.mark.slow
def test_evaluate_takes_what_it_can_measure(run, models):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 255, (20, 8, 8, 1)).astype(np.uint8), np.arange(20) % 10
    for name, arrays, words in (
        ("floats", (images / 127.5 - 1, labels), "evaluate takes uint8 NHWC images"),
        ("range", (images, labels + 5), "labels go from 0 to 9, got 14"),
        ("float labels", (images, labels / 2), "labels must be integers, got float64"),
        ("size", (np.zeros((20, 4, 4, 1), np.uint8), labels), "samples must be (n, 8, 8, 1)"),
    ):
        np.savez(run.folder / "s.npz", arr_0=arrays[0], arr_1=arrays[1])
        left = run("evaluate", "--models", models, "--samples", "s.npz")
        assert (left.returncode, len(left.stderr.strip().splitlines())) == (2, 1), name
        assert words in left.stderr
    np.savez(run.folder / "s.npz", arr_0=images, arr_1=labels)
    left = run("evaluate", "--models", models, "--samples", "s.npz", "--out", "/proc/x/y.json")
    assert left.returncode == 2
    assert len(left.stderr.strip().splitlines()) == 1
    assert run("evaluate", "--models", models, "--samples", "s.npz", "--out", "m.json").returncode == 0


@pytest.mark.slow
def test_a_full_disk_and_an_interruption_are_one_line(run, models, monkeypatch):
    import errno

    from guidance_jax import files
    from guidance_jax.app.plan import Plan

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    asked = ("sample", "--models", models, "--n", 2, "--steps", 2, "--method", "none", "--out", "x.npz")
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        left = run(*asked)
    assert left.returncode == 2
    assert left.stderr.strip().endswith("the disk is full; no part of it was written: fix this and start again")
    assert [p.name for p in run.folder.iterdir() if p.name != "cache"] == []
    with monkeypatch.context() as patch:
        patch.setattr(Plan, "draw", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        left = run(*asked)
    assert left.returncode == 130
    assert left.stderr.strip().splitlines() == [
        "interrupted: everything saved so far is kept; run the same command again to continue"
    ]


@pytest.mark.release
def test_every_method_for_images_is_compared_on_the_digits_in_one_run(run, models):
    left = run("compare", "--models", models, "--out", "all", "--n", 6, "--steps", 3, "--particles", 4)
    assert left.returncode == 0, left.stderr
    rows = json.loads((run.folder / "all" / "comparison.json").read_text())["rows"]
    assert [row["name"] for row in rows if row["refused"]] == []
    assert len(rows) >= 35
    assert (run.folder / "all" / "comparison.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tokens", pytest.param("text", marks=pytest.mark.release)])
def test_methods_for_sequences_are_compared_in_one_run(run, kind):
    """Models of seconds: what needs no option of its own is drawn; the others say which option."""
    import recipes as recipe
    from guidance_jax.datasets.sequences import Sequences
    from guidance_jax.discrete.process import Absorbing

    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 4, (200, 6)).astype(np.int32)
    data = Sequences(tokens, (tokens.sum(1) > 9).astype(np.int32), ("low", "high"), tuple("abcd"))
    small = dict(width=16, steps=5, batch=32)
    if kind == "tokens":
        recipe.train_tokens(run.folder / "m" / "denoiser", data, Absorbing(4), depth=2, value_weight=0.3, **small)
        recipe.train_token_classifier(run.folder / "m" / "classifier", data, Absorbing(4), depth=1, **small)
    else:
        recipe.train_language_model(run.folder / "m" / "denoiser", data, depth=2, **small)
        recipe.train_prefix_classifier(run.folder / "m" / "classifier", data, depth=1, **small)
    left = run("compare", "--models", "m", "--out", "all", "--n", 4, "--steps", 6, "--particles", 4)
    assert left.returncode == 0, left.stderr
    rows = json.loads((run.folder / "all" / "comparison.json").read_text())["rows"]
    refused = {row["name"]: row["refused"] for row in rows if row["refused"]}
    options = {
        "tokens": {
            "Forbid": "banned",
            "Infill": "known",
            "PromptCFG": "prompt",
            "AutomatonGuidance": "automaton",
            "EntRGi": "reward",
        },
        "text": {"PPLM": "attribute"},
    }[kind]
    assert {name: reason.split(";")[0] for name, reason in refused.items()} == {
        name: f"{name} needs {option}" for name, option in options.items()
    }
    asked = ("sample", "--models", "m", "--n", 4, "--out", "x.npz", "--label", 1, "--method", "CFG")
    assert run(*asked).returncode == 0
    assert np.load(run.folder / "x.npz")["arr_0"].dtype == np.int32
