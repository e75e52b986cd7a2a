"""From a caption and a downloaded folder to pictures, by the command line."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.test_cli import run  # noqa: F401  a fixture
from tests.test_latent_models import whole
from tests.test_pretrained import GLIDE_SHAPES, state

ASKED = ("--prompt", "the red cat", "--prompt", "a dog", "--steps", 3, "--scale", 4)


def done(left):
    assert left.returncode == 0, left.stderr
    return left


@pytest.mark.slow
def test_a_caption_becomes_pictures(run):  # noqa: F811
    """Two captions in turn, a seed for each picture, a negative caption; what was asked lies beside."""
    models = whole("sd15", run.folder / "sd15")
    done(run("sample", "--models", models, *ASKED, "--n", 5, "--batch", 2, "--negative", "the dog", "--out", "a.npz"))
    with np.load(run.folder / "a.npz") as file:
        pictures, labels = file["arr_0"], file["arr_1"]
    assert (pictures.dtype, pictures.shape, labels.tolist()) == (np.uint8, (5, 16, 16, 3), [0, 1, 0, 1, 0])
    assert (run.folder / "a.png").exists()
    about = json.loads((run.folder / "a.json").read_text())
    assert (about["prompts"], about["negative"]) == (["the red cat", "a dog"], "the dog")
    assert about["method"] == {"name": "CFG"}
    assert about["configuration"]["_class_name"] == "StableDiffusionPipeline"

    # picture 4 alone, by its place in a job that is cut into shards
    done(run("sample", "--models", models, *ASKED, "--n", 5, "--shard", 2, "--negative", "the dog", "--out", "job"))
    with np.load(run.folder / "job/samples.npz") as file:
        assert np.abs(file["arr_0"].astype(int) - pictures).max() <= 1  # another batch, another rounding
    (run.folder / "job/shard_00001.npz").unlink()
    done(run("sample", "--models", models, *ASKED, "--n", 5, "--shard", 2, "--negative", "the dog", "--out", "job"))
    other = run("sample", "--models", models, "--prompt", "a cat", "--n", 5, "--shard", 2, "--out", "job")
    assert "belongs to another job" in other.stderr

    done(run("sample", "--models", models, *ASKED, "--n", 1, "--size", "32x48", "--tile", 8, "--out", "large.npz"))
    assert np.load(run.folder / "large.npz")["arr_0"].shape == (1, 32, 48, 3)
    odd = run("sample", "--models", models, *ASKED, "--size", "32", "--out", "b.npz")
    assert "--size is height x width, such as 512x768, got '32'" in odd.stderr

    measured = run("sample", "--models", models, *ASKED, "--set", "measurement.observed=y.npy", "--out", "b.npz")
    assert "a measurement is of pictures, and the model makes latents" in measured.stderr

    unasked = run("sample", "--models", models, "--out", "b.npz")
    assert 'conditional on captions; write --prompt "a red cat"' in unasked.stderr
    long = run("sample", "--models", models, "--prompt", "x" * 40, "--out", "b.npz")
    assert "tokens, 16 are read; shorten it" in long.stderr
    assert long.stderr.strip().count("\n") == 0


@pytest.mark.slow
def test_methods_are_compared_on_a_caption(run):  # noqa: F811
    models = whole("sdxl", run.folder / "sdxl")
    methods = [part for name in ("none", "CFG", "APG", "CFGZeroStar", "Perturbed") for part in ("--method", name)]
    left = done(run("compare", "--models", models, *ASKED[:6], *methods, "--n", 2, "--out", "out"))
    assert "5 of 5 drawn" in left.stdout


@pytest.mark.slow
def test_a_folder_of_classes_is_sampled_and_converted(run):  # noqa: F811
    models = whole("dit", run.folder / "dit")
    left = done(run("convert", models, "--out", "own"))
    assert "own/autoencoder: AutoencoderKL" in left.stdout
    for folder, out in ((models, "a.npz"), ("own", "b.npz")):
        done(run("sample", "--models", folder, "--label", "3,7", "--n", 2, "--steps", 3, "--out", out))
    a, b = (np.load(run.folder / name)["arr_0"] for name in ("a.npz", "b.npz"))
    np.testing.assert_array_equal(a, b)
    captions = run("sample", "--models", models, "--prompt", "a cat", "--out", "c.npz")
    assert "prompts are for models of captions; write --label" in captions.stderr


@pytest.mark.slow
def test_glide_takes_captions_with_its_tokenizer(run):  # noqa: F811
    save_file(state(GLIDE_SHAPES["text"], 0.05), run.folder / "glide.safetensors")
    (run.folder / "encoder.json").write_text(json.dumps({c: i for i, c in enumerate([*"abcdefgh", "ab", "Ġ"])}))
    (run.folder / "vocab.bpe").write_text("#version: 0.2\na b\n")
    sizes = ("--image-size", 16, "--head-channels", 16, "--schedule", "cosine", "--old-attention-order")
    done(run("convert", "glide.safetensors", "--out", "models", *sizes, "--tokenizer", "."))
    asked = ("--prompt", "ab c", "--n", 2, "--steps", 3)
    done(run("sample", "--models", "models", *asked, "--out", "a.npz"))
    assert np.load(run.folder / "a.npz")["arr_0"].shape == (2, 16, 16, 3)
    other = run("sample", "--models", "models", "--prompt", "ab ab ab c", "--out", "b.npz")
    assert "tokens, 6 are read; shorten it" in other.stderr


def test_files_that_hold_several_networks_need_a_key(run):  # noqa: F811
    save_file({"ema.a": np.zeros(2, np.float32), "model.a": np.zeros(2, np.float32)}, run.folder / "x.safetensors")
    left = run("convert", "x.safetensors", "--out", "models", "--key", "average")
    assert "has no tensor whose name begins with average." in left.stderr
