"""The models of latents: against the authors' numbers, from folders of diffusers, with captions, by one command."""

import dataclasses
import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import guidance_jax as gj
from guidance_jax.core import Refused
from guidance_jax.guidance import Autoguidance
from guidance_jax.guidance.attention import AttentionContrast, guide_attention
from guidance_jax.guidance.perturbed import Perturbation, perturb
from guidance_jax.zoo.convert import convert, read_state, recognize
from guidance_jax.zoo.diffusers.scheduler import process
from guidance_jax.zoo.dit.network import DiT
from guidance_jax.zoo.glide.network import GLIDEUNet
from guidance_jax.zoo.latent import decode_tiles
from guidance_jax.zoo.layers import upsample
from guidance_jax.zoo.pipeline_parts import PipelineParts
from guidance_jax.zoo.stable_diffusion import names as stable_diffusion
from guidance_jax.zoo.stable_diffusion import single_file
from guidance_jax.zoo.stable_diffusion.clip import CLIPText
from guidance_jax.zoo.stable_diffusion.unet import StableDiffusionUNet
from guidance_jax.zoo.state_dict import Options
from guidance_jax.zoo.tokenizer import Tokenizer
from tests import first
from tests.test_jobs import environment
from tests.test_networks import relative
from tests.test_pretrained import GLIDE_SHAPES, KNOWN, state

GOLDEN = Path(__file__).parent / "golden"
TRANSFORMERS = np.load(GOLDEN / "latent_transformers.npz")
SHAPES = json.loads((GOLDEN / "latent_transformers.json").read_text())
CAPTIONS = ["the red cat", "a dog, running!"]
NAMES = ("sd15", "sd21", "sdxl", "dit")


SHARED = {  # parts of a pipeline that lie in the folder of another
    "dit": {"vae": "sd15/vae"},
    "sd3": {"tokenizer": "sd15/tokenizer", "tokenizer_2": "sd15/tokenizer"},
    "flux": {"vae": "sd3/vae", "tokenizer": "sd15/tokenizer", "tokenizer_2": "sd3/tokenizer_3"},
    "z_image": {"vae": "sd3/vae"},
}


def whole(name, out):
    """The folder of a pipeline: what is its own over what it shares."""
    shared = SHARED.get(name, {part: f"sd15/{part}" for part in ("vae", "text_encoder", "tokenizer")})
    for part, place in shared.items():
        shutil.copytree(GOLDEN / "pipelines" / place, out / part)
    shutil.copytree(GOLDEN / "pipelines" / name, out, dirs_exist_ok=True)
    if name == "z_image":  # random numbers, of which the shapes alone are stored
        tensors = {}
        for k, (key, shape) in enumerate(json.loads((GOLDEN / "pipelines/z_image.json").read_text()).items()):
            values = 0.28 * (np.random.default_rng(k).random(np.prod(shape)) - 0.5)
            tensors[key] = (values.reshape(shape) + (len(shape) == 1 and key.endswith("weight"))).astype(np.float16)
        save_file(tensors, out / "transformer/diffusion_pytorch_model.safetensors")
    return out


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: whole(name, tmp_path_factory.mktemp("pipelines") / name) for name in NAMES}


@pytest.fixture(scope="module")
def pipelines(folders):
    return {name: gj.load_diffusers(folder) for name, folder in folders.items()}


def channels_first(a):
    return np.moveaxis(np.asarray(a), -1, 1)


def last(a):
    return np.moveaxis(np.asarray(a), 1, -1)


@pytest.mark.parametrize("family", list(SHAPES))
def test_a_latent_transformer_is_the_authors_s(family):
    told = {"DiT": "DiT", "SiT": "SiT"}.get(family)
    found = recognize(state(SHAPES[family], 0.05), Options(num_heads=4, family=told))
    x, t, y, want = (TRANSFORMERS[f"{family}/{name}"] for name in ("x", "t", "y", "out"))
    got = jax.jit(jax.vmap(found.network.apply, in_axes=(None, 0, 0, 0)))(found.params, last(x), t, y)
    assert relative(channels_first(got), want) < 1e-5
    assert found.domain.guided_channels == (None if family == "REPA" else 3)
    assert (found.domain.num_classes, found.domain.null_label) == (10, 10)


def test_what_a_transformer_predicts_must_be_said_where_tensors_do_not():
    with pytest.raises(Refused, match="DiT and SiT files hold the same tensors"):
        recognize(state(SHAPES["SiT"], 0.05), Options(num_heads=4))
    with pytest.raises(Refused, match="of width 48 has none of the published sizes; pass num_heads"):
        recognize(state(SHAPES["SiT"], 0.05), Options(family="SiT"))
    with pytest.raises(Refused, match="family must be one of"):
        recognize(state(SHAPES["SiT"], 0.05), Options(num_heads=4, family="sit"))


def test_a_tensor_of_a_stacked_block_is_named():
    wrong = state(SHAPES["DiT"], 0.05)
    wrong["blocks.1.mlp.fc2.weight"] = np.zeros((48, 7), np.float32)
    with pytest.raises(Refused, match=r"blocks\.1\.mlp\.fc2\.weight has shape \(48, 7\), expected \(48, 192\)"):
        recognize(wrong, Options(num_heads=4, family="DiT"))
    del wrong["blocks.1.mlp.fc2.weight"]
    with pytest.raises(Refused, match="no tensor for block 1 of blocks/mlp_fc2/kernel"):
        recognize(wrong, Options(num_heads=4, family="DiT"))


@pytest.mark.slow
@pytest.mark.parametrize("name", first(["sd15"], NAMES))
def test_ten_guided_steps_are_those_of_diffusers(name, pipelines):
    """The same noise through the scheduler's own timesteps: latents, and pictures of them."""
    pipeline, want = pipelines[name], np.load(GOLDEN / f"pipelines/{name}.npz")
    if name == "dit":
        cond, null, scale = pipeline.conditions([3, "7"]), pipeline.null(), 4.0
        apply = jax.vmap(pipeline.model.apply, in_axes=(None, 0, 0, 0))
        net = apply(pipeline.model.params, last(want["noise"]), jnp.array([500.0, 20.0]), jnp.array([3, 1000]))
        assert relative(channels_first(net), want["net"]) < 1e-5
    else:
        cond, null, scale = pipeline.conditions(CAPTIONS), pipeline.null("the dog"), 5.0
        assert relative(cond["context"], want["context"]) < 1e-5
        assert relative(null["context"], want["null"][0]) < 1e-5
    kernel = gj.Reverse(gj.CFG(pipeline.model, null, scale), gj.DDIM())
    given = pipeline.levels(10), pipeline.shape, cond, last(want["noise"])
    latents = gj.generate(gj.keys(0, 2), kernel, *given)
    assert relative(channels_first(latents), want["latents"]) < 1e-4
    assert np.abs(np.clip(pipeline.decode(latents) / 2 + 0.5, 0, 1) - want["images"]).max() < 1e-4
    if name == "sdxl":
        assert relative(cond["vector"][:, :12], want["pooled"]) < 1e-5
        kernel = gj.Reverse(gj.CFG(pipeline.model, pipeline.null(), scale), gj.DDIM())
        assert relative(channels_first(gj.generate(gj.keys(0, 2), kernel, *given)), want["empty"]) < 1e-4


@pytest.mark.slow
def test_the_autoencoder_s_encoder_is_diffusers(pipelines):
    want = np.load(GOLDEN / "pipelines/sd15.npz")
    own = pipelines["sd15"].autoencoder
    mean = own.encode(last(want["picture"])) / 0.18215
    assert relative(channels_first(mean), want["mean"]) < 1e-5
    draws = np.stack([own.encode(last(want["picture"]), jax.random.key(i)) / 0.18215 for i in range(200)])
    deviation = np.exp(np.clip(want["logvar"], -30, 20) / 2)
    ratio = channels_first(draws.std(0)) / np.maximum(deviation, 1e-12)
    assert np.abs(np.median(ratio) - 1) < 0.05


def test_tiles_of_a_local_decoder_are_the_whole():
    z = jax.random.normal(jax.random.key(0), (13, 21, 4))
    np.testing.assert_allclose(decode_tiles(upsample, z, 8, 2), upsample(z), atol=1e-6)


@pytest.mark.slow
def test_a_large_picture_is_decoded_in_tiles(pipelines):
    own = pipelines["sd15"].autoencoder
    z = jax.random.normal(jax.random.key(0), (1, 12, 16, 4))
    whole, tiles = own.decode(z), own.decode(z, tile=12)  # two tiles, of which 8 of 16 columns overlap
    assert whole.shape == tiles.shape == (1, 24, 32, 3)
    np.testing.assert_allclose(own.decode(z, tile=16), whole, atol=1e-6)  # one tile holds all
    left, right = own.decode(z[:, :, :12]), own.decode(z[:, :, 4:])
    np.testing.assert_allclose(tiles[:, :, :8], left[:, :, :8], atol=1e-5)
    np.testing.assert_allclose(tiles[:, :, 24:], right[:, :, 16:], atol=1e-5)
    both = np.stack([left[:, :, 8:], right[:, :, :16]])
    assert np.all((tiles[:, :, 8:24] >= both.min(0) - 1e-5) & (tiles[:, :, 8:24] <= both.max(0) + 1e-5))
    with pytest.raises(Refused, match="a tile must have 8 latents or more"):
        own.decode(z, tile=4)
    with pytest.raises(Refused, match="latents have 4 channels"):
        own.decode(z[..., :3])


@pytest.mark.slow
def test_captions_are_read_once(pipelines):
    """One call of each text encoder a caption, however many steps are taken."""
    calls = []

    class Counting(CLIPText):
        def __call__(self, tokens):
            jax.debug.callback(lambda: calls.append(1))
            return super().__call__(tokens)

    pipeline = pipelines["sdxl"]
    fields = [f.name for f in dataclasses.fields(CLIPText) if f.name not in ("parent", "name")]
    text = tuple(
        dataclasses.replace(e, network=Counting(**{k: vars(e.network)[k] for k in fields})) for e in pipeline.text
    )
    pipeline = dataclasses.replace(pipeline, text=text)
    cond = pipeline.conditions(CAPTIONS)
    jax.effects_barrier()
    assert len(calls) == 2 * len(CAPTIONS)
    kernel = gj.Reverse(gj.CFG(pipeline.model, pipeline.null("the dog"), 5.0), gj.DDIM())
    gj.generate(gj.keys(0, 2), kernel, pipeline.levels(6), pipeline.shape, cond)
    jax.effects_barrier()
    assert len(calls) == 2 * (len(CAPTIONS) + 1)


@pytest.mark.slow
def test_glide_reads_a_caption_once():
    """The encoded condition gives the samples of the tokens, and the transformer is not run in the loop."""
    calls = []

    class Counting(GLIDEUNet):
        def read(self, tokens):
            jax.debug.callback(lambda _: calls.append(1), tokens)
            return super().read(tokens)

    found = recognize(state(GLIDE_SHAPES["text"], 0.05), KNOWN)
    fields = [f.name for f in dataclasses.fields(GLIDEUNet) if f.name not in ("parent", "name")]
    network = Counting(**{k: vars(found.network)[k] for k in fields})
    model = gj.Network(found.params, network.apply, found.parameterization, found.domain, batched=False, encodes=True)
    tokens, null = jnp.array([[3, 7, 9, -1, -1, -1], [4, 1, -1, -1, -1, -1]]), jnp.full((1, 6), -1)
    levels = found.domain.schedule.levels("3")

    def drawn(cond, null):
        kernel = gj.Reverse(gj.CFG(model, null, 3.0), gj.DDIM())
        found = gj.generate(gj.keys(0, 2), kernel, levels, model.domain.shape, cond)
        jax.effects_barrier()
        return found

    raw = drawn(tokens, null[0])
    assert len(calls) == 3 * 2 * 2  # steps, samples, with and without the caption
    calls.clear()
    cond, empty = model.encode(tokens), jax.tree.map(lambda a: a[0], model.encode(null))
    np.testing.assert_allclose(drawn(cond, empty), raw, atol=1e-5)
    assert len(calls) == 3
    with pytest.raises(Refused, match="nothing to encode"):
        dataclasses.replace(model, encodes=False).encode(tokens)


CONTROL = GOLDEN / "pipelines/control"


@pytest.mark.slow
def test_a_control_net_is_diffusers(folders):
    """Ten guided steps, each sample with an image of its own, also beside the negative caption, at strength 0.7."""
    want = np.load(GOLDEN / "pipelines/control.npz")
    pipeline = gj.load_diffusers(folders["sd15"], control=CONTROL)
    kernel = gj.Reverse(gj.CFG(pipeline.model, pipeline.null("the dog"), 5.0), gj.DDIM())
    given = pipeline.levels(10), pipeline.shape

    image = last(want["image"])

    def drawn(strength, image):
        cond = pipeline.conditions(CAPTIONS) | {"image": image, "strength": jnp.full(2, strength)}
        return gj.generate(gj.keys(0, 2), kernel, *given, cond, last(want["noise"]))

    assert relative(channels_first(drawn(0.7, image)), want["latents"]) < 1e-5
    alone = gj.load_diffusers(folders["sd15"])
    free = gj.Reverse(gj.CFG(alone.model, alone.null("the dog"), 5.0), gj.DDIM())
    same = gj.generate(gj.keys(0, 2), free, *given, alone.conditions(CAPTIONS), last(want["noise"]))
    np.testing.assert_allclose(drawn(0.0, image), same, rtol=1e-4, atol=1e-4 * np.abs(same).max())
    cond = pipeline.conditions(CAPTIONS) | {"image": image, "strength": jnp.full(2, 0.7)}
    one = gj.Reverse(gj.guidance.Compose(pipeline.model, pipeline.null("the dog"), [5.0]), gj.DDIM())
    composed = gj.generate(gj.keys(0, 2), one, *given, jax.tree.map(lambda a: a[:, None], cond), last(want["noise"]))
    assert relative(channels_first(composed), want["latents"]) < 1e-5  # its null has no image, and takes the sample's
    changed = np.array(image)
    changed[1] = 0.5
    assert relative(drawn(0.7, changed)[1], np.asarray(drawn(0.7, image)[1])) > 1e-4
    np.testing.assert_array_equal(drawn(0.7, changed)[0], drawn(0.7, image)[0])
    with pytest.raises(Refused, match=r"encoded captions .*'image': "):
        gj.generate(gj.keys(0, 2), kernel, *given, pipeline.conditions(CAPTIONS))
    half = gj.load_diffusers(folders["sd15"], "bfloat16", control=CONTROL)
    assert {a.dtype for a in jax.tree.leaves(half.model.params)} == {jnp.dtype("bfloat16")}


@pytest.mark.slow
def test_control_nets_of_something_else_are_refused(folders, tmp_path):
    with pytest.raises(Refused, match="holds a UNet2DConditionModel, expected a ControlNetModel"):
        gj.load_diffusers(folders["sd15"], control=folders["sd15"] / "unet")
    with pytest.raises(Refused, match=r"is for Stable Diffusion's U-Net, .* was given for a DiT"):
        gj.load_diffusers(folders["dit"], control=CONTROL)
    with pytest.raises(Refused, match="has no place in ControlNet"):
        gj.load_diffusers(folders["sdxl"], control=CONTROL)
    shutil.copytree(CONTROL, tmp_path / "odd")
    change(tmp_path / "odd/config.json", controlnet_conditioning_channel_order="bgr")
    with pytest.raises(Refused, match="channel_order = 'bgr', which is not supported"):
        gj.load_diffusers(folders["sd15"], control=tmp_path / "odd")


def randomised(params, scale):
    """Parameters with noise added: fresh ones make a DiT return zero."""
    leaves, tree = jax.tree.flatten(params)
    random = [a + scale * jax.random.normal(jax.random.key(i), a.shape) for i, a in enumerate(leaves)]
    return jax.tree.unflatten(tree, random)


def small_dit(**fields):
    network = DiT(24, 2, 48, depth=3, patch=2, out_channels=4, num_classes=5, **fields)
    x = jax.random.normal(jax.random.key(1), (8, 8, 4))
    params = network.init(jax.random.key(0), x, jnp.zeros(()), jnp.zeros((), int))
    return network, randomised(params, 0.1), x


@pytest.mark.slow
def test_a_skipped_block_is_a_network_without_it():
    network, params, x = small_dit(perturbed=(1,))
    given = x, jnp.float32(0.3), jnp.int32(2)
    skipped = network.apply(params, *given, perturbation=Perturbation(skip=1.0))
    fewer = jax.tree.map(lambda a: a[np.array([0, 2])], params["params"]["blocks"])
    short = dataclasses.replace(network, depth=2)
    want = short.apply({"params": {**params["params"], "blocks": fewer}}, *given)
    np.testing.assert_allclose(skipped, want, atol=1e-5)
    plain = network.apply(params, *given)
    np.testing.assert_allclose(network.apply(params, *given, perturbation=Perturbation()), plain, atol=1e-5)
    for worse in (Perturbation(attention=1.0), Perturbation(blur=2.0)):
        assert relative(network.apply(params, *given, perturbation=worse), np.asarray(plain)) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", first(["dit"], NAMES))
def test_every_network_can_be_perturbed(name, pipelines):
    pipeline = pipelines[name]
    weak = perturb(pipeline.model, attention=1.0)
    cond = pipeline.conditions([3] if name == "dit" else CAPTIONS[:1])
    levels = pipeline.levels(4)

    def drawn(scale):
        kernel = gj.Reverse(Autoguidance(pipeline.model, weak, scale), gj.DDIM())
        return gj.generate(gj.keys(0, 1), kernel, levels, pipeline.shape, cond)

    plain = gj.generate(gj.keys(0, 1), gj.Reverse(pipeline.model, gj.DDIM()), levels, pipeline.shape, cond)
    np.testing.assert_allclose(drawn(1.0), plain, rtol=1e-4, atol=1e-4 * np.abs(plain).max())
    assert relative(drawn(3.0), np.asarray(plain)) > 1e-4


def guided(**numbers):
    """A small U-Net of Stable Diffusion, what it makes of a caption, guided in its attention, and of the negative."""
    network, params, x, (cond, negative) = small_text_unet()
    model = gj.Network(params, network.apply, gj.parameterizations.eps, batched=False)

    asked = (model, cond), (guide_attention(model, negative, **numbers), cond), (model, negative)
    return (np.asarray(noise_of(model, x, cond)) for model, cond in asked)


@jax.jit
def noise_of(model, x, cond):
    return model(x, gj.Cosine()(0.5), cond, (), None)[0].eps


@functools.cache
def small_text_unet():
    network = StableDiffusionUNet(
        model_channels=8, out_channels=4, num_res_blocks=1, attention_resolutions=(1, 2), channel_mult=(1, 2),
        num_heads=2, groups=4, transformer_depth=(1, 1),
    )  # fmt: skip
    keys = jax.random.split(jax.random.key(3), 3)
    x, *contexts = (jax.random.normal(k, shape) for k, shape in zip(keys, [(8, 8, 4), (5, 6), (5, 6)], strict=True))
    conds = [{"context": c} for c in contexts]
    shapes = jax.eval_shape(network.init, jax.random.key(0), x, jnp.zeros(()), conds[0])
    return network, randomised(jax.tree.map(lambda a: jnp.full(a.shape, 0.2), shapes), 0.2), x, conds


@pytest.mark.slow
def test_attention_is_guided_away_from_a_negative_caption():
    """Both ends: at scale 1, share 0 or the same caption nothing changes; at scale 0 it reads the negative alone."""
    for numbers in ({"scale": 1.0}, {"share": 0.0}):
        plain, found, _ = guided(**numbers)
        np.testing.assert_allclose(found, plain, atol=1e-5)
    plain, found, negative = guided(scale=0.0, share=1.0, limit=1e9)
    np.testing.assert_allclose(found, negative, atol=1e-5)
    assert relative(plain, negative) > 1e-3
    plain, found, _ = guided()
    assert relative(found, plain) > 1e-3


def test_guided_attention_grows_no_further_than_the_limit():
    """Of the sums over channels, as in the paper and not as in its first code; rows of zeros stay numbers."""
    positive, negative = np.random.default_rng(0).normal(size=(2, 50, 6))
    positive[0] = negative[0] = 0
    contrast = AttentionContrast(None, 5.0, 2.5, 0.25)
    found = np.asarray(contrast.combine(jnp.asarray(positive), jnp.asarray(negative)))
    assert np.isfinite(found).all()
    shares = (found - 0.75 * positive) / 0.25
    growth = np.abs(shares[1:]).sum(-1) / np.abs(positive[1:]).sum(-1)
    assert growth.max() < 2.5 + 1e-4
    assert (growth > 2.5 - 1e-4).mean() > 0.5
    free = 5 * positive[1:] - 4 * negative[1:]
    scaled = shares[1:] / free
    np.testing.assert_allclose(scaled, np.broadcast_to(scaled[:, :1], scaled.shape), rtol=1e-3)


def test_attention_that_nothing_guides_is_refused():
    network, params, _, (cond, _) = small_text_unet()
    model = gj.Network(params, network.apply, gj.parameterizations.eps, batched=False)
    with pytest.raises(gj.Refused, match="a condition of one sample, with a context"):
        guide_attention(model, cond["context"])
    other = DiT(24, 2, 48, depth=3)
    with pytest.raises(gj.Refused, match="reads captions by attention, got DiT"):
        guide_attention(gj.Network({}, other.apply, gj.parameterizations.eps, batched=False), cond)


SPLIT = """
import sys
import jax, jax.numpy as jnp, numpy as np
import guidance_jax as gj
from tests.test_latent_models import split_model
kernel, levels = split_model()
args = gj.keys(0, 4), kernel, levels, (8, 8, 4), jnp.arange(4)
np.save(sys.argv[1], gj.generate_on(gj.sample_mesh(), *args, split=True))
print(gj.memory(gj.sample_mesh(), *args, split=True).arguments / gj.memory(gj.sample_mesh(), *args).arguments)
"""


def split_model():
    wide = DiT(128, 4, 512, depth=4, patch=2, out_channels=4, num_classes=5)
    params = wide.init(jax.random.key(0), jnp.zeros((8, 8, 4)), jnp.zeros(()), jnp.zeros((), int))
    domain = gj.Domain((8, 8, 4), gj.LinearBetas(1000), 4, 4)
    model = gj.Network(randomised(params, 0.03), wide.apply, gj.parameterizations.eps, domain, batched=False)
    return gj.Reverse(gj.CFG(model, 4, 2.0), gj.DDIM()), domain.schedule.levels("4")


@pytest.mark.slow
def test_a_transformer_is_split_over_devices(tmp_path):
    """Each holds a share of the parameters, of every block, and the samples are those of one device."""
    command = [sys.executable, "-c", SPLIT, str(tmp_path / "x.npy")]
    done = subprocess.run(command, env=environment(4), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    kernel, levels = split_model()
    want = gj.generate(gj.keys(0, 4), kernel, levels, (8, 8, 4), jnp.arange(4))
    assert relative(np.load(tmp_path / "x.npy"), np.asarray(want)) < 1e-5
    assert float(done.stdout) < 0.3


@pytest.mark.slow
def test_remat_and_unrolling_change_nothing_and_bfloat16_little():
    network, params, x = small_dit()
    given = jnp.float32(0.3), jnp.int32(2)

    def loss(network):
        return jax.value_and_grad(lambda x: jnp.sum(network.apply(params, x, *given) ** 2))(x)

    want = loss(network)
    for same in (dict(remat=True), dict(unroll=3)):
        for a, b in zip(loss(dataclasses.replace(network, **same)), want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    half = dataclasses.replace(network, dtype=jnp.bfloat16).apply(params, x, *given)
    assert half.dtype == jnp.bfloat16
    assert relative(half.astype(jnp.float32), np.asarray(network.apply(params, x, *given))) < 0.03


@pytest.mark.slow
def test_a_pipeline_in_bfloat16_samples_in_float32(folders):
    want = gj.load_diffusers(folders["sd15"])
    half = gj.load_diffusers(folders["sd15"], "bfloat16")
    assert all(a.dtype == jnp.bfloat16 for a in jax.tree.leaves(half.model.params))
    found = [
        gj.generate(
            gj.keys(0, 2),
            gj.Reverse(gj.CFG(p.model, p.null(), 2.0), gj.DDIM()),
            p.levels(3),
            p.shape,
            p.conditions(CAPTIONS),
        )
        for p in (want, half)
    ]
    assert found[1].dtype == jnp.float32
    assert relative(found[1], np.asarray(found[0])) < 0.1


@pytest.mark.slow
def test_a_picture_of_another_size(folders):
    pipeline = gj.load_diffusers(folders["sd15"], size=(16, 32))
    assert pipeline.shape == (8, 16, 4)
    with pytest.raises(Refused, match="multiples of 16, got 17 x 32"):
        gj.load_diffusers(folders["sd15"], size=(17, 32))
    with pytest.raises(Refused, match="pictures of the size it was trained for"):
        gj.load_diffusers(folders["dit"], size=(32, 32))


@pytest.mark.slow
@pytest.mark.parametrize("name", first(["dit"], ["sdxl", "dit"]))
def test_a_converted_folder_samples_the_same(name, folders, pipelines, tmp_path):
    assert {n for n, _, _ in convert(folders[name], tmp_path / "a")} >= {"denoiser", "autoencoder"}
    convert(tmp_path / "a", tmp_path / "b", "orbax")
    for pipeline in (PipelineParts.read(tmp_path / "a").assemble(), PipelineParts.read(tmp_path / "b").assemble()):
        want = pipelines[name]
        asked = [3] if name == "dit" else CAPTIONS[:1]
        assert pipeline.grid == want.grid
        drawn = [
            p.decode(
                gj.generate(
                    gj.keys(0, 1),
                    gj.Reverse(gj.CFG(p.model, p.null(), 2.0), gj.DDIM()),
                    p.levels(2),
                    p.shape,
                    p.conditions(asked),
                )
            )
            for p in (pipeline, want)
        ]
        np.testing.assert_array_equal(*drawn)


@pytest.mark.slow
def test_a_single_file_holds_what_the_folder_does(folders, pipelines, tmp_path, monkeypatch):
    """The same tensors by the names of single files. That these are right was checked with diffusers' own converter."""
    folder = folders["sd15"]
    unet, vae, text = (
        load_file(folder / part / name)
        for part, name in (
            ("unet", "diffusion_pytorch_model.safetensors"),
            ("vae", "diffusion_pytorch_model.safetensors"),
            ("text_encoder", "model.safetensors"),
        )
    )
    tensors = {f"model.diffusion_model.{stable_diffusion.unet_name(k, 1, (False, True))}": v for k, v in unet.items()}
    tensors |= {f"first_stage_model.{stable_diffusion.autoencoder_name(k, 2)}": v for k, v in vae.items()}
    tensors |= {f"cond_stage_model.transformer.{k}": v for k, v in text.items()}
    save_file(tensors, tmp_path / "sd.safetensors")
    release = single_file.Release(8, ("num_heads", 2), single_file.RELEASES[768].texts)
    monkeypatch.setitem(single_file.RELEASES, 16, release)
    parts = single_file.single_file(read_state(tmp_path / "sd.safetensors"), groups=4)
    assert parts.parts["text"][0]["network"]["length"] == 16
    for name, want in (("denoiser", pipelines["sd15"].model), ("autoencoder", pipelines["sd15"].autoencoder)):
        jax.tree.map(np.testing.assert_array_equal, parts.parts[name][1], dict(want.params))


def test_a_tokenizer_of_two_files_is_that_of_one(folders, tmp_path):
    about = json.loads((folders["sd15"] / "tokenizer/tokenizer.json").read_text())["model"]
    words = {**about["vocab"], "<|startoftext|>": 520, "<|endoftext|>": 521}
    (tmp_path / "vocab.json").write_text(json.dumps(words))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, about["merges"])) + "\n")
    captions = ["The  red CAT's dog", "naïve café, 12!", ""]
    one, two = Tokenizer.clip(folders["sd15"] / "tokenizer", 40), Tokenizer.clip(tmp_path, 40)
    np.testing.assert_array_equal(one(captions), two(captions))
    with pytest.raises(Refused, match="has 18 tokens, at most 16 are accepted; shorten it"):
        Tokenizer.clip(tmp_path, 16)(["x" * 16])
    with pytest.raises(Refused, match="holds no tokenizer that can be read"):
        Tokenizer.clip(tmp_path / "nothing", 16)


def test_glide_s_tokenizer_pads_with_minus_one(tmp_path):
    words = {c: i for i, c in enumerate([*"abcdefgh", "ab", "Ġ", "Ġab"])}
    (tmp_path / "encoder.json").write_text(json.dumps(words))
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\na b\nĠ ab\n")
    assert Tokenizer.glide(tmp_path, 6)(["AB ab c"]).tolist() == [[8, 10, 9, 2, -1, -1]]


SCHEDULER = {"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "clip_sample": False}


def test_a_scheduler_file_is_read_or_refused_by_name():
    found = process(SCHEDULER | {"beta_start": 0.00085, "beta_end": 0.012, "clip_sample": True, "steps_offset": 1})
    assert found.schedule == gj.schedules.ScaledLinearBetas(1000)
    assert found.clip == 1.0
    assert process({"_class_name": "DDIMScheduler"}).schedule == gj.LinearBetas(1000)
    # as Stable Diffusion XL comes: options that its scheduler does not look at
    xl = {"_class_name": "EulerDiscreteScheduler", "set_alpha_to_one": False, "clip_sample": True, "steps_offset": 1}
    xl = process(
        SCHEDULER | xl | {"timestep_spacing": "leading", "skip_prk_steps": True, "interpolation_type": "linear"}
    )
    assert (xl.grid, xl.clip) == ({"name": "spaced", "spacing": "leading", "offset": 1, "clean": True}, None)
    karras = process(SCHEDULER | {"use_karras_sigmas": True})
    assert karras.grid["name"] == "karras"
    for odd, message in (
        ({"_class_name": "DEISMultistepScheduler"}, "the scheduler DEISMultistep.* is not supported"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule = 'sigmoid', known are linear"),
        ({"prediction_type": "flow_prediction"}, "prediction_type = 'flow_prediction'"),
        ({"thresholding": True}, "thresholding = True, which is not supported"),
        ({"something_new": 3}, "something_new = 3, which is not supported"),
        ({"timestep_spacing": "sideways"}, "spacing must be leading, trailing or linspace"),
    ):
        with pytest.raises(Refused, match=message):
            gj.schedules.grid(*(lambda p: (p.schedule, 4, p.grid))(process(SCHEDULER | odd)))


def change(path, **values):
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, **values}))


@pytest.mark.parametrize(
    ("where", "values", "message"),
    [
        ("model_index.json", {"_class_name": "SanaPipeline"}, "holds a SanaPipeline, which is not supported"),
        ("model_index.json", {"unet": ["diffusers", "UNet3D"]}, "unet holds a UNet3D, which is not supported"),
        ("model_index.json", {"controlnet": ["diffusers", "ControlNetModel"]}, "controlnet holds a ControlNetModel"),
        ("unet/config.json", {"act_fn": "gelu"}, "unet has act_fn = 'gelu', which is not supported"),
        ("unet/config.json", {"quantization_config": {"bits": 4}}, "unet is quantised, which is not supported"),
        ("unet/config.json", {"layers_per_block": [1, 2]}, r"has layers_per_block = \[1, 2\]"),
        ("unet/config.json", {"dual_cross_attention": True}, "has dual_cross_attention = True"),
        ("text_encoder/config.json", {"hidden_act": "relu"}, "hidden_act = 'relu' is not supported"),
        ("scheduler/scheduler_config.json", {"_class_name": "Odd"}, "the scheduler Odd is not supported"),
    ],
)
def test_what_a_folder_holds_that_is_not_supported_is_one_line(where, values, message, tmp_path):
    folder = whole("sd15", tmp_path / "odd")
    change(folder / where, **values)
    with pytest.raises(Refused, match=message) as caught:
        gj.load_diffusers(folder)
    assert "\n" not in str(caught.value)


def test_an_old_folder_of_a_dit_and_one_without_an_entry(tmp_path):
    folder = whole("dit", tmp_path / "old")
    change(folder / "model_index.json", transformer=["diffusers", "Transformer2DModel"], id2label={"0": "a", "1": "b"})
    assert gj.load_diffusers(folder).classes == ("a", "b")
    about = json.loads((folder / "transformer/config.json").read_text())
    del about["patch_size"]
    (folder / "transformer/config.json").write_text(json.dumps(about))
    with pytest.raises(Refused, match=r"a configuration file in .* has no entry 'patch_size'"):
        gj.load_diffusers(folder)


def test_whole_numbers_are_quantised(tmp_path):
    folder = whole("sd15", tmp_path / "odd")
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["conv_in.weight"] = (100 * tensors["conv_in.weight"]).astype(np.int8)
    save_file(tensors, file)
    with pytest.raises(Refused, match="holds whole numbers: quantised weights are not supported"):
        gj.load_diffusers(folder)


def test_folders_that_are_no_pipelines_are_one_line(tmp_path):
    with pytest.raises(Refused, match=r"is not a diffusers folder: it has no model_index\.json"):
        gj.load_diffusers(tmp_path)
    (tmp_path / "pytorch_lora_weights.safetensors").write_bytes(b"")
    with pytest.raises(Refused, match=r"holds an adapter \(LoRA, pytorch_lora_weights"):
        gj.load_diffusers(tmp_path)
    folder = whole("sd15", tmp_path / "odd")
    (folder / "unet/diffusion_pytorch_model.safetensors").rename(folder / "unet/model.gguf")
    with pytest.raises(Refused, match=r"has no weights that can be read .*model\.gguf"):
        gj.load_diffusers(folder)


def test_embedders_that_are_not_tied_are_refused(folders, tmp_path):
    folder = whole("dit", tmp_path / "odd")
    file = folder / "transformer/diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.bias"] += 1
    save_file(tensors, file)
    with pytest.raises(Refused, match="differs from that of block 0: embedders of blocks must be tied"):
        gj.load_diffusers(folder)


def test_conditions_of_the_wrong_kind_are_refused(pipelines):
    text, classes = pipelines["sd15"], pipelines["dit"]
    with pytest.raises(Refused, match="conditional on captions, got"):
        text.conditions([3])
    with pytest.raises(Refused, match="there is no class called 'cat'"):
        classes.conditions(["cat"])
    with pytest.raises(Refused, match="a negative caption needs a model conditional on captions"):
        classes.null("blurry")
    kernel = gj.Reverse(text.model, gj.DDIM())
    with pytest.raises(Refused, match="conditional on encoded captions"):
        gj.generate(gj.keys(0, 2), kernel, text.levels(2), text.shape, jnp.zeros(2, int))


def test_levels_of_latent_models():
    betas = gj.schedules.ScaledLinearBetas(1000)
    assert gj.schedules.spaced(betas, 5, offset=1).t.tolist() == [801, 601, 401, 201, 1, 0]
    assert gj.schedules.spaced(betas, 5, "trailing").t.tolist() == [999, 799, 599, 399, 199, 0]
    assert gj.schedules.spaced(betas, 5, "linspace").t.tolist() == [999, 749, 500, 250, 0, 0]
    # without a last step from timestep 0 to itself
    assert gj.schedules.spaced(betas, 5, clean=False).t.tolist() == [800, 600, 400, 200, 0]
    none = gj.schedules.ScaledLinearBetas(1000, zero_terminal=True)
    np.testing.assert_allclose(none.levels(2).alpha, [0, np.sqrt(none.alphas_cumprod()[0]), 1], atol=1e-7)
    np.testing.assert_allclose(none.alphas_cumprod()[0], betas.alphas_cumprod()[0])
    assert np.isfinite(none(jnp.linspace(0, 999, 50)).alpha).all()

    flow = gj.RectifiedFlow()
    t = jnp.linspace(0.999, 0, 11)
    np.testing.assert_allclose(gj.schedules.shifted(flow, 10, 3.0).t, 3 * t / (1 + 2 * t), rtol=1e-5)
    np.testing.assert_allclose(gj.schedules.shifted(flow, 10, 1.0, 1.0).t, jnp.linspace(1, 0, 11), atol=1e-6)
    # LightningDiT's 0.3 on its own clock, which is 1 - t
    s = 1 - t
    np.testing.assert_allclose(1 - gj.schedules.shifted(flow, 10, 1 / 0.3).t, 0.3 * s / (1 - 0.7 * s), atol=1e-6)
    assert gj.schedules.dynamic_shift(256) == pytest.approx(np.exp(0.5))
    with pytest.raises(Refused, match="spaced chooses timesteps of a Betas schedule"):
        gj.schedules.spaced(flow, 4)
    with pytest.raises(Refused, match="shift > 0"):
        gj.schedules.shifted(flow, 4, 0.0)


@pytest.mark.slow
def test_a_velocity_to_data_is_a_velocity_turned_round():
    target = gj.GaussianMixture(means=jnp.array([[2.0, 0.0], [-1.0, 1.5]]), std=0.5, weights=jnp.array([0.7, 0.3]))
    flow = gj.RectifiedFlow()

    def to_data(params, x, t, cond):
        pred, _ = target(x, flow(1 - t), cond, (), None)
        return pred.x0 - pred.eps

    model = gj.Network((), to_data, gj.parameterizations.velocity_to_data, batched=False)
    x, level, cond = jnp.array([0.3, -0.7]), flow(jnp.float32(0.4)), jnp.int32(1)
    got, want = model(x, level, cond, (), None)[0], target(x, level, cond, (), None)[0]
    np.testing.assert_allclose(got.x0, want.x0, rtol=1e-5)
    np.testing.assert_allclose(got.eps, want.eps, rtol=1e-5)
    meaning = gj.parameterizations.velocity_to_data
    np.testing.assert_allclose(meaning.predict(meaning.target(want.x0, want.eps, level), x, level).x0, want.x0, 1e-5)
    kernel = gj.Reverse(model, gj.DDIM())
    with pytest.raises(Refused, match="the velocity field is defined on"):
        gj.generate(gj.keys(0, 1), kernel, gj.Cosine().levels(4), (2,), jnp.zeros(1, int))
