"""From a caption and a downloaded folder to pictures, by the command line."""

import json
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

import guidance_jax as gj
from guidance_jax.datasets.arrays import read_array
from guidance_jax.pictures import to_uint8
from tests.test_cli import run  # noqa: F401  a fixture
from tests.test_latent_models import GOLDEN, whole
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
    assert "--size must be height x width, such as 512x768, got '32'" in odd.stderr

    measured = run("sample", "--models", models, *ASKED, "--set", "measurement.observed=y.npy", "--out", "b.npz")
    assert "a measurement needs pictures, but the model makes latents" in measured.stderr

    unasked = run("sample", "--models", models, "--out", "b.npz")
    assert 'conditional on captions; write --prompt "a red cat"' in unasked.stderr
    long = run("sample", "--models", models, "--prompt", "x" * 40, "--out", "b.npz")
    assert "tokens, at most 16 are accepted; shorten it" in long.stderr
    assert long.stderr.strip().count("\n") == 0


@pytest.mark.slow
def test_methods_are_compared_on_a_caption(run):  # noqa: F811
    models = whole("sdxl", run.folder / "sdxl")
    methods = [part for name in ("none", "CFG", "APG", "CFGZeroStar", "Perturbed") for part in ("--method", name)]
    left = done(run("compare", "--models", models, *ASKED[:6], *methods, "--n", 2, "--out", "out"))
    assert "5 of 5 drawn" in left.stdout

    def drawn(*flags):
        done(run("compare", "--models", models, *ASKED[:6], "--method", "CFG", "--n", 2, *flags, "--out", "other"))
        return read_array(run.folder / "other" / "comparison.png")

    usual, half = drawn(), drawn("--dtype", "bfloat16")
    assert np.abs(drawn("--batch", 1) - usual).max() < 0.01  # of 2: a batch changes no sample
    assert np.abs(half - usual).max() > 0.01


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
    assert "tokens, at most 6 are accepted; shorten it" in other.stderr


def test_files_that_hold_several_networks_need_a_key(run):  # noqa: F811
    save_file({"ema.a": np.zeros(2, np.float32), "model.a": np.zeros(2, np.float32)}, run.folder / "x.safetensors")
    left = run("convert", "x.safetensors", "--out", "models", "--key", "average")
    assert "has no tensor whose name begins with average." in left.stderr


def picture(path, side=16, seed=0, levels=256):
    """A picture of noise; of two levels, a mask whose right half is white."""
    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, levels, (side, side, 3))
    if levels == 2:
        pixels = np.broadcast_to(255 * (np.arange(side) >= side // 2)[None, :, None], (side, side, 3))
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd15", "sd3"])
def test_a_picture_is_edited_as_a_whole_and_in_part(name, run):  # noqa: F811
    """One step of a hundred leaves it; a mask keeps the latents of its black half; the strength is of the steps."""
    models = whole(name, run.folder / name)
    start, mask = picture(run.folder / "cat.png"), picture(run.folder / "mask.png", levels=2)
    asked = ("sample", "--models", models, "--prompt", "a cat", "--n", 2, "--scale", 3, "--start", start)
    done(run(*asked, "--steps", 100, "--strength", 0.01, "--out", "near.npz"))
    done(run(*asked, "--steps", 5, "--strength", 0.8, "--out", "far.npz"))
    done(run(*asked, "--steps", 5, "--strength", 1, "--mask", mask, "--out", "part.npz"))
    near, far, part = (np.load(run.folder / f"{file}.npz")["arr_0"].astype(int) for file in ("near", "far", "part"))
    pipeline = gj.load(models)
    coded = pipeline.autoencoder.encode(read_array(start)[None])
    plain = to_uint8(pipeline.decode(coded)).astype(int)
    assert np.abs(near - plain).mean() < 0.8 * np.abs(far - plain).mean()
    assert np.abs(part[0] - part[1])[:, 8:].mean() > 3 * np.abs(part[0] - part[1])[:, :4].mean()
    about = json.loads((run.folder / "part.json").read_text())
    assert (about["start"], about["mask"], about["strength"]) == (str(start), str(mask), 1.0)
    large = picture(run.folder / "large.png", side=20)
    for flags, message in (
        (("--start", large), "--start .* has shape .20, 20, 3., but the pictures of this request are 16 x 16"),
        (("--start", start, "--mask", large), "--mask .* the pictures of this request are 16 x 16"),
        (("--mask", mask), "--mask needs --start"),
        (("--strength", 0.3), "--strength has no effect"),
        (("--start", start, "--strength", 0), "--strength must be a finite number from 0.001 to 1"),
        (("--start", "none.png"), "none.png"),
    ):
        left = run("sample", "--models", models, "--prompt", "a cat", "--n", 1, *flags, "--out", "b.npz")
        assert left.returncode == 2
        assert re.search(message, left.stderr), left.stderr


@pytest.mark.slow
def test_adapters_and_a_control_net_come_with_the_command(run):  # noqa: F811
    models, lora = whole("sd15", run.folder / "sd15"), GOLDEN / "lora" / "sd15.safetensors"
    asked = ("sample", "--models", models, "--prompt", "the red cat", "--n", 1, "--steps", 3, "--scale", 3)
    hint = picture(run.folder / "edges.png")
    control = ("--control", GOLDEN / "pipelines" / "control", "--hint", hint)
    for out, flags in (("plain", ()), ("none", ("--lora", f"{lora}=0")), ("lora", ("--lora", lora)), ("hint", control)):
        done(run(*asked, *flags, "--out", f"{out}.npz"))
    plain, none, merged, hinted = (
        np.load(run.folder / f"{out}.npz")["arr_0"].astype(int) for out in ("plain", "none", "lora", "hint")
    )
    assert np.abs(plain - none).max() <= 1
    assert np.abs(plain - merged).max() > 3
    assert np.abs(plain - hinted).max() > 3
    for flags, message in (
        (("--lora", f"{lora}=much"), "--lora must be FILE or FILE=0.8"),
        (("--lora", lora, "--lora", lora), "twice"),
        (("--lora", "none.safetensors"), "none.safetensors"),
        (("--hint", hint), "--control and --hint go together"),
        (control[:2], "--control and --hint go together"),
    ):
        left = run(*asked, *flags, "--out", "b.npz")
        assert left.returncode == 2
        assert message in left.stderr
