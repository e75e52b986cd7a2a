"""Other people's checkpoints: read without running them, recognised by their tensors, converted both ways."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import guidance_jax as gj
from guidance_jax.app.plan import plan
from guidance_jax.app.request import Request
from guidance_jax.checkpoints.torch_file import read_torch
from guidance_jax.models.parameterizations import EDM, LearnedRange
from guidance_jax.schedules import CosineBetas, LinearBetas
from guidance_jax.zoo.adm.network import ADMClassifier, ADMUNet
from guidance_jax.zoo.convert import convert, read_state, recognize
from guidance_jax.zoo.guided_diffusion import architecture
from guidance_jax.zoo.load import load
from guidance_jax.zoo.state_dict import Options
from tests.test_jobs import environment
from tests.test_networks import GOLDEN, NETWORKS, golden_inputs, relative

FOLDER = Path(__file__).parent / "golden"
GLIDE, GLIDE_SHAPES = np.load(FOLDER / "glide.npz"), json.loads((FOLDER / "glide.json").read_text())
KNOWN = Options(16, CosineBetas(1000), None, 16, False)


def state(shapes, amplitude):
    """A state dict whose weights are the golden files' formula."""
    found = {}
    for k, key in enumerate(sorted(shapes)):
        value = amplitude * np.sin(0.37 * np.arange(np.prod(shapes[key])) + k)
        value += key.endswith(".weight") and len(shapes[key]) == 1
        found[key] = value.reshape(shapes[key]).astype(np.float32)
    return found


def openai(name):
    return state(NETWORKS[name]["state_dict"], NETWORKS[name]["amplitude"])


@pytest.mark.parametrize("file", ["torch_zip.pt", "torch_legacy.pt"])
def test_both_formats_of_pytorch_are_read(file):
    found = read_torch(FOLDER / file)
    a = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    want = {"a": a, "b": a.T[1:3], "c": np.array(3), "d": np.full(2, 1.5, jnp.bfloat16), "e": np.ones(2, np.float16)}
    assert list(found) == list(want)
    for name, value in want.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)


def test_a_network_among_others_is_named_by_a_key():
    file = FOLDER / "torch_nested.pt"
    with pytest.raises(ValueError, match=r"holds several entries, model, ema, opt, args, steps; .* key='ema'"):
        read_torch(file)
    with pytest.raises(ValueError, match=r"no entry 'emma'; it holds model, ema"):
        read_torch(file, "emma")
    assert {k: v.tolist() for k, v in read_torch(file, "ema").items()} == {"module.a": [0, 1, 2], "module.b": [1]}
    assert list(read_state(file, "ema")) == ["a", "b"]  # without the wrapper of a parallel network


class Malicious:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def test_a_pickle_that_would_run_code_is_refused_by_name(tmp_path):
    mark = tmp_path / "ran"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "evil.pt").write_bytes(pickle.dumps({"weight": Malicious(str(mark))}, protocol))
        with pytest.raises(ValueError, match=r"refused: it would run (posix|nt)\.mkdir") as caught:
            read_torch(tmp_path / "evil.pt")
        assert "\n" not in str(caught.value)
    assert not mark.exists()


@pytest.mark.parametrize("file", ["torch_zip.pt", "torch_legacy.pt"])
def test_a_truncated_file_is_refused_at_every_length(file, tmp_path):
    whole = (FOLDER / file).read_bytes()
    for length in range(0, len(whole), 61):
        (tmp_path / "cut.pt").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"truncated|refused") as caught:
            read_torch(tmp_path / "cut.pt")
        assert "\n" not in str(caught.value)


def test_a_tensor_that_reaches_outside_its_storage_is_refused(tmp_path):
    """One damaged number in the pickle must not read foreign memory."""
    whole = (FOLDER / "torch_legacy.pt").read_bytes()
    at = whole.index(b"K\x03K\x04\x86")  # the shape (3, 4)
    (tmp_path / "odd.pt").write_bytes(whole[: at + 1] + b"\x7f" + whole[at + 2 :])
    with pytest.raises(ValueError, match="outside its storage"):
        read_torch(tmp_path / "odd.pt")


@pytest.mark.parametrize("name", list(NETWORKS))
def test_the_architecture_is_told_by_the_tensors(name):
    spec = NETWORKS[name]["config"]
    known = Options(
        16,
        LinearBetas(1000),
        spec.get("num_heads"),
        spec.get("num_head_channels"),
        spec.get("use_new_attention_order", False),
    )
    found = recognize(openai(name), known)
    for field, value in spec.items():
        if field not in ("image_size", "in_channels"):
            assert getattr(found.network, field) == (tuple(value) if isinstance(value, list) else value), field
    assert isinstance(found.network, ADMClassifier) == name.startswith("classifier")
    learned = name.startswith("adm")
    want = None if name.startswith("classifier") else LearnedRange() if learned else gj.parameterizations.eps
    assert found.parameterization == want
    classes = 10 if name.startswith("classifier") else spec.get("num_classes")
    assert found.domain == gj.Domain((16, 16, 3), LinearBetas(1000), classes)


@pytest.mark.slow
def test_openai_s_releases_need_no_options():
    """A network of the 64 x 64 classifier's shapes: image size, heads and schedule come from the release."""
    network = ADMClassifier(128, 1000, 4, (2, 4, 8), (1, 2, 3, 4), num_head_channels=64)
    x = jnp.zeros((64, 64, 3))
    shapes = jax.eval_shape(network.init, jax.random.key(0), x, jnp.zeros(()))
    found = recognize(torch_names(shapes))
    assert found.network == network
    assert found.domain == gj.Domain((64, 64, 3), CosineBetas(1000), 1000)


def torch_names(params):
    """A state dict of zeros with OpenAI's names and layouts, for parameters of an ADM classifier."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params["params"]):
        *modules, name = (p.key for p in path)
        shape = leaf.shape
        one_d = modules[-1] in ("qkv", "proj_out", "qkv_proj", "c_proj")
        if name == "kernel":
            shape = shape[::-1] + (1,) * one_d if len(shape) == 2 else (shape[3], shape[2], shape[0], shape[1])
        name = {"kernel": "weight", "scale": "weight", "positional_embedding": name}.get(name, name)
        shape = shape[::-1] if name == "positional_embedding" else shape
        words = []
        for module in modules:
            parts = module.split("_")
            split = next((i for i, p in enumerate(parts) if p.isdigit()), len(parts))
            words += ["_".join(parts[:split]), *parts[split:]]
        found[".".join([*words, name])] = np.zeros(shape, np.float32)
    return found


def test_what_tensors_do_not_tell_is_asked_for():
    with pytest.raises(ValueError, match=r"not one of OpenAI's releases.* pass image_size, schedule, num_heads"):
        recognize(openai("adm_class"))


def test_a_wrong_shape_is_named_with_both_shapes():
    wrong = openai("adm_class")
    wrong["middle_block.0.in_layers.2.weight"] = np.zeros((64, 63, 3, 3), np.float32)
    with pytest.raises(
        ValueError, match=r"middle_block\.0\.in_layers\.2\.weight has shape \(64, 63, 3, 3\), expected \(64, 64, 3, 3\)"
    ):
        recognize(wrong, KNOWN)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_no_damaged_tensor_is_more_than_one_line(name):
    """Whichever tensor is missing or of another shape: an architecture or a refusal, no other exception."""
    shapes, refused = {k: tuple(v) for k, v in NETWORKS[name]["state_dict"].items()}, 0
    for key, shape in shapes.items():
        for other in (None, (), (7,), (*shape, 2), (shape[0] + 1, *shape[1:])):
            damaged = {k: (other if k == key else v) for k, v in shapes.items() if k != key or other is not None}
            try:
                architecture(damaged)
            except ValueError:  # any other exception fails
                refused += 1
    assert refused > 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("middle_block.1.qkv.bias"), "no tensor for middle_block_1/qkv/bias"),
        (lambda s: s.update({"middle_block.7.weight": np.zeros((3, 3), np.float32)}), "has no place in ADMUNet"),
        (lambda s: s.update({"input_blocks.0.0.weight": np.zeros((32, 6, 3, 3), np.float32)}), "6 channels: an up"),
        (lambda s: s.pop("time_embed.0.weight"), r"has no tensor time_embed\.0\.weight, which every"),
    ],
    ids=["missing", "left over", "upsampler", "foreign"],
)  # fmt: skip
def test_foreign_state_dicts_are_refused(change, message):
    wrong = openai("adm_class")
    change(wrong)
    with pytest.raises(ValueError, match=message):
        recognize(wrong, KNOWN)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["text", "inpaint"])
def test_glide_is_the_mirror_s(name):
    found = recognize(state(GLIDE_SHAPES[name], 0.05), KNOWN)
    model = gj.Network(found.params, found.network.apply, found.parameterization, found.domain, batched=False)
    channels_last = {k: np.moveaxis(GLIDE[f"{name}/{k}"], 1, -1) for k in ("x", "out")}
    cond = jnp.asarray(GLIDE[f"{name}/tokens"])
    if name == "inpaint":
        cond = {"tokens": cond} | {k: np.moveaxis(GLIDE[f"{name}/{k}"], 1, -1) for k in ("image", "mask")}
    out = jax.jit(jax.vmap(model.apply, (None, 0, 0, 0)))(model.params, channels_last["x"], GLIDE[f"{name}/t"], cond)
    assert relative(out, channels_last["out"]) < 1e-4


@pytest.mark.slow
def test_glide_is_guided_in_the_noise_alone():
    """The learned variance stays that of the caption; another length of caption is refused in one line."""
    found = recognize(state(GLIDE_SHAPES["text"], 0.05), KNOWN)
    model = gj.Network(found.params, found.network.apply, found.parameterization, found.domain, batched=False)
    null, caption = jnp.full(6, -1), jnp.array([4, 9, 3, -1, -1, -1])
    x, level = jax.random.normal(jax.random.key(0), (16, 16, 3)), found.domain.schedule(jnp.array(400.0))
    guide = gj.CFG.from_gamma(model, null, 3.0)
    ask = jax.jit(lambda model, tokens: model(x, level, tokens, model.init(x), None)[0])
    c, u, got = ask(model, caption), ask(model, null), ask(guide, caption)
    np.testing.assert_allclose(got.eps, -2 * u.eps + 3 * c.eps, atol=1e-4)
    np.testing.assert_allclose(got.variance_fraction, c.variance_fraction, atol=1e-5)
    assert np.abs(c.variance_fraction - u.variance_fraction).max() > 1e-3
    kernel, levels = gj.Reverse(guide, gj.DDPM()), found.domain.schedule.levels(3)
    images = gj.generate(gj.keys(0, 2), kernel, levels, (16, 16, 3), jnp.stack([caption, caption]))
    assert np.isfinite(images).all()
    with pytest.raises(ValueError, match=r"captions of 6 tokens, -1 for padding, got \(2, 4\)"):
        gj.generate(gj.keys(0, 2), kernel, levels, (16, 16, 3), jnp.zeros((2, 4), int))


@pytest.mark.slow
def test_a_converted_checkpoint_is_openai_s_network_in_both_formats(tmp_path):
    """safetensors in, ours out, to orbax, and back: the same output as OpenAI's code throughout."""
    save_file(openai("adm_uncond"), tmp_path / "weights.safetensors")
    [(name, _, domain)] = convert(tmp_path / "weights.safetensors", tmp_path / "flat", known=KNOWN)
    assert name == "denoiser"
    convert(tmp_path / "flat" / name, tmp_path / "orbax", "orbax")
    convert(tmp_path / "orbax" / name, tmp_path / "again", "safetensors")
    x, t, _ = golden_inputs("adm_uncond", jnp.float32)
    for folder in ("flat", "orbax", "again"):
        model = load(tmp_path / folder / name, gj.Network)
        assert model.domain == domain
        out = jax.vmap(model.apply, (None, 0, 0, None))(model.params, x, t, None)
        assert relative(np.moveaxis(out, -1, 1), GOLDEN["adm_uncond/out"]) < 1e-4
    with pytest.raises(ValueError, match="is not empty; convert into another folder"):
        convert(tmp_path / "weights.safetensors", tmp_path / "flat", known=KNOWN)


@pytest.mark.slow
def test_half_precision_inside_leaves_guidance_in_float32(tmp_path):
    save_file(openai("classifier_attention"), tmp_path / "weights.safetensors")
    [(name, _, domain)] = convert(tmp_path / "weights.safetensors", tmp_path, known=KNOWN)
    half, full = (load(tmp_path / name, gj.NoisyClassifier, dtype) for dtype in ("bfloat16", None))
    x, t, _ = golden_inputs("classifier_attention", jnp.float32)
    level = domain.schedule(t[0])
    assert "bf16" in str(jax.make_jaxpr(half.log_prob)(x[0], level, 3))
    value, gradient = jax.jit(jax.value_and_grad(half.log_prob))(x[0], level, 3)
    assert gradient.dtype == value.dtype == jnp.float32
    assert 0 < relative(value, np.asarray(jax.jit(full.log_prob)(x[0], level, 3))) < 0.05


SHARDED = """
import sys
import jax, jax.numpy as jnp
import guidance_jax as gj
from guidance_jax.zoo.adm.network import ADMUNet
from guidance_jax.sharding import sample_mesh, split_params
from guidance_jax.checkpoints.config import config
from guidance_jax.zoo.load import load
from guidance_jax.checkpoints.store import save_params
network = ADMUNet(8, 1, 1, (2,), (1, 2), groups=4)
params = jax.jit(network.init)(jax.random.key(0), jnp.zeros((8, 8, 1)), jnp.zeros(()))
placed = jax.device_put(params, split_params(params, sample_mesh(), least=64))
assert any(not a.is_fully_replicated for a in jax.tree.leaves(placed)) and len(jax.devices()) == 8
save_params(sys.argv[1], placed, config(network, gj.Domain((8, 8, 1)), gj.parameterizations.eps))
again = load(sys.argv[1], gj.Network).params
assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), again, params))
"""


@pytest.mark.slow
def test_a_checkpoint_of_eight_devices_is_restored_on_one(tmp_path):
    """Parameters split over 8 devices are written, read there, and read here."""
    command = [sys.executable, "-c", SHARDED, str(tmp_path / "model")]
    done = subprocess.run(command, env=environment(8), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    network = ADMUNet(8, 1, 1, (2,), (1, 2), groups=4)
    want = jax.jit(network.init)(jax.random.key(0), jnp.zeros((8, 8, 1)), jnp.zeros(()))
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path / "model", gj.Network).params, want)


def edm_state():
    return state(json.loads((FOLDER / "edm.json").read_text()), 0.05)


@pytest.mark.slow
def test_edm_is_the_mirror_s_and_preconditioned():
    found, golden = recognize(edm_state()), np.load(FOLDER / "edm.npz")
    assert (found.parameterization, found.domain.shape, found.domain.num_classes) == (
        EDM(0.5),
        (8, 8, 3),
        5,
    )
    x, out = (np.moveaxis(golden[k], 1, -1) for k in ("x", "out"))
    got = jax.jit(jax.vmap(found.network.apply, (None, 0, 0, 0)))(found.params, x, golden["t"], golden["y"])
    assert relative(got, out) < 1e-4
    model = gj.Network(found.params, found.network.apply, found.parameterization, found.domain, batched=False)
    level, label = found.domain.schedule(jnp.exp(4 * golden["t"][0])), golden["y"][0]  # c_noise = log(sigma) / 4
    sigma, sd = float(level.sigma), 0.5
    at = jnp.asarray(x[0]) * (sigma**2 + sd**2) ** 0.5  # c_in makes it x[0]
    want = sd**2 / (sigma**2 + sd**2) * at + sigma * sd / (sigma**2 + sd**2) ** 0.5 * out[0]
    np.testing.assert_allclose(model(at, level, label, (), None)[0].x0, want, atol=1e-4)


@pytest.mark.parametrize("name", ["enc.4x4_block0.qkv.bias", "enc.4x4_block0.proj.weight", "dec.4x4_in1.conv0.weight"])
def test_a_tensor_of_edm_that_is_missing_or_odd_is_refused(name):
    missing = edm_state()
    odd = dict(missing) | {name: missing.pop(name)[:-1]}
    for wrong in (missing, odd):
        with pytest.raises(ValueError, match=r"no tensor|has shape|missing"):
            recognize(wrong)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"enc.4x4_aux_norm.weight": np.zeros(3)}, "only EDM networks with the ADM architecture"),
        ({"model.emb_fourier.freqs": np.zeros(3)}, "only EDM networks with the ADM architecture"),
        ({"other.weight": np.zeros(3)}, r"has a tensor that EDM's ADM does not have: other\.weight"),
    ],
)
def test_other_networks_of_edm_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        recognize(edm_state() | change)


@pytest.mark.slow
def test_openai_s_pair_is_converted_and_sampled_by_the_command_line(tmp_path):
    """Conditional model, learned variance, noisy classifier; what does not fit is refused in one line."""
    from typer.testing import CliRunner

    from guidance_jax.app.cli import app

    def run(*arguments):
        return CliRunner().invoke(app, [str(a) for a in arguments])

    names = {"adm_class": "unet", "classifier_attention": "guide"}
    for name, file in names.items():
        save_file(openai(name), tmp_path / f"{file}.safetensors")
    untold = ["--image-size", "16", "--head-channels", "16", "--schedule", "cosine"]
    models = tmp_path / "models"
    assert (
        run("convert", tmp_path / "unet.safetensors", "--out", models, *untold, "--new-attention-order").exit_code == 0
    )
    assert (
        run("convert", tmp_path / "guide.safetensors", "--out", models, *untold, "--old-attention-order").exit_code == 0
    )
    for method, more in (("MeanShift", []), ("Classifier", ["--microbatch", 2, "--remat"])):
        out = tmp_path / f"{method}.npz"
        asked = ("sample", "--models", models, "--out", out, "--n", 3, "--steps", 3, "--method", method, *more)
        assert "MiB on a device" in run(*asked, "--estimate").output
        done = run(*asked)
        assert done.exit_code == 0, done.output
        with np.load(out) as file:
            assert file["arr_0"].shape == (3, 16, 16, 3)
        about = json.loads(out.with_suffix(".json").read_text())
        assert about["method"] == {"name": method}
    refused = run("sample", "--models", models, "--out", tmp_path / "x.npz", "--method", "cfg")
    assert "CFG needs a model with a null label" in str(refused.exception)
    refused = run("sample", "--models", models, "--out", tmp_path / "x.npz", "--method", "Recur", "--microbatch", 2)
    assert "--microbatch is for the gradient of a classifier" in str(refused.exception)


UNGUIDED = {"name": "none"}


@pytest.mark.slow
def test_edm_is_sampled_on_its_grid(tmp_path):
    """18 steps: from 80 to 0.002, then to 0 (Karras et al. 2022, eq. 5)."""
    save_file({k: np.ascontiguousarray(v) for k, v in edm_state().items()}, tmp_path / "edm.safetensors")
    convert(tmp_path / "edm.safetensors", tmp_path)
    levels = plan(Request(str(tmp_path), UNGUIDED, steps="18"), 2).levels
    np.testing.assert_allclose(levels.sigma[np.array([0, 9, 17, 18])], [80, 1.9233, 0.002, 0], rtol=1e-4)
    with pytest.raises(ValueError, match="--steps must be a number for a model on VE"):
        plan(Request(str(tmp_path), UNGUIDED, steps="ddim25"), 2)


def test_captions_are_for_generate(tmp_path):
    save_file(state(GLIDE_SHAPES["text"], 0.05), tmp_path / "glide.safetensors")
    convert(tmp_path / "glide.safetensors", tmp_path, known=KNOWN)
    with pytest.raises(ValueError, match="conditional on captions, but it has no tokenizer"):
        plan(Request(str(tmp_path), UNGUIDED), 2)
