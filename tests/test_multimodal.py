"""SD3, FLUX and adapters: against diffusers and PEFT, guidance inside attention, from a caption to a picture."""

import dataclasses
import json
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import guidance_jax as gj
from guidance_jax.app.models import free_encoders
from guidance_jax.app.plan import plan
from guidance_jax.app.request import Request
from guidance_jax.checkpoints.safetensors_file import Tensors
from guidance_jax.guidance import Autoguidance, Learned, guide_attention, perturb
from guidance_jax.pictures import to_uint8
from guidance_jax.zoo.convert import add_tokenizers, convert
from guidance_jax.zoo.diffusers.folder import read_diffusers, weights
from guidance_jax.zoo.diffusers.lora import Adapter, check_used, merge
from guidance_jax.zoo.diffusers.scheduler import process
from guidance_jax.zoo.diffusers.single_file import file_of_transformer
from guidance_jax.zoo.mmdit import single_file
from guidance_jax.zoo.mmdit.network import MMDiT
from guidance_jax.zoo.mmdit.reader import DEFAULTS
from guidance_jax.zoo.mmdit.t5 import distance_buckets
from guidance_jax.zoo.stable_diffusion import names as stable_diffusion
from tests.test_cli import run  # noqa: F401  a fixture
from tests.test_latent_models import CAPTIONS, GOLDEN, change, channels_first, last, randomised, whole
from tests.test_networks import relative

NAMES = ("sd3", "flux")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: whole(name, tmp_path_factory.mktemp("multimodal") / name) for name in NAMES}


@pytest.fixture(scope="module")
def pipelines(folders):
    """FLUX's configuration does not say the size of its pictures: 1,024 pixels until it is resized."""
    found = {name: gj.load(folder) for name, folder in folders.items()}
    return found | {"flux": found["flux"].resize(16, 16)}


def read(name):
    return np.load(GOLDEN / f"pipelines/{name}.npz")


def ready(pipeline, name):
    """The denoiser as it is asked: FLUX is told the scale of what it has learned."""
    return Learned(pipeline.model, 3.5) if name == "flux" else pipeline.model


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_ten_steps_are_those_of_diffusers(name, pipelines, measured):
    """The same noise: texts, timesteps, latents and pictures; SD3 by CFG, FLUX by its learned scale, then by both."""
    pipeline, want = pipelines[name], read(name)
    cond, null = pipeline.conditions(CAPTIONS), pipeline.null("the dog")
    assert relative(cond["context"], want["context"]) < 2e-5
    assert relative(cond["vector"], want["pooled"]) < 1e-5
    levels = pipeline.levels(10)
    np.testing.assert_allclose(levels.sigma, want["sigmas"], atol=1e-6)
    model = ready(pipeline, name)
    kernels = {"latents": model, "true": gj.CFG(model, null, 2.0)} if name == "flux" else {}
    for what, guided in (kernels or {"latents": gj.CFG(model, null, 5.0)}).items():
        kernel = gj.Reverse(guided, gj.DDIM())
        latents = gj.generate(gj.keys(0, 2), kernel, levels, pipeline.shape, cond, last(want["noise"]))
        measured(f"{name}: {what} of diffusers", relative(channels_first(latents), want[what]))
        assert relative(channels_first(latents), want[what]) < 2e-5
        if what == "latents":
            assert np.abs(np.clip(pipeline.decode(latents) / 2 + 0.5, 0, 1) - want["images"]).max() < 1e-4


@pytest.mark.slow
def test_a_block_that_is_left_out_is_diffusers_skipped_layer(pipelines):
    """SD3.5's skip-layer guidance contrasts with this network."""
    pipeline, want = pipelines["sd3"], read("sd3")
    network = dataclasses.replace(pipeline.model.apply.__self__, perturbed=(1,))
    model = dataclasses.replace(pipeline.model, apply=network.apply)
    cond = pipeline.conditions(CAPTIONS)
    for net, how in ((want["net"], perturb(model)), (want["skipped"], perturb(model, skip=1.0))):
        apply = jax.vmap(
            lambda x, t, cond, how=how: network.apply(how.params, x, t, cond, perturbation=how.perturbation)
        )
        found = apply(last(want["noise"]), jnp.array([0.7, 0.04]), cond)
        assert relative(channels_first(found), net) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_attention_is_made_worse_or_guided(name, pipelines):
    """Scale 1, share 0, the same caption or no perturbation change nothing; scale 0 reads the negative alone."""
    pipeline = pipelines[name]
    null = pipeline.null("the dog")
    one, other = (  # contexts that differ in every row: in captions of this length all but a few are padding
        {**null, "context": 3 * jax.random.normal(key, (12, null["context"].shape[1]))} for key in gj.keys(5, 2)
    )
    level, x = gj.RectifiedFlow()(0.6), jax.random.normal(jax.random.key(0), pipeline.shape)
    network = dataclasses.replace(pipeline.model.apply.__self__, perturbed=(0, 1, 3))
    model = dataclasses.replace(pipeline.model, apply=network.apply, scale=3.5 if name == "flux" else None)

    def ask(model, cond=one):
        return np.asarray(jax.jit(lambda m, c: m(x, level, c, (), None)[0].x0)(model, cond))

    plain = ask(model)
    for same in (
        guide_attention(model, other, scale=1.0),
        guide_attention(model, other, share=0.0),
        guide_attention(model, one),
        perturb(model),
    ):
        assert relative(ask(same), plain) < 1e-5
    read_alone = ask(guide_attention(model, other, scale=0.0, share=1.0, limit=1e9))
    negative = ask(model, {**one, "context": other["context"]})
    assert relative(negative, plain) > 1e-3
    assert relative(read_alone, negative) < 1e-5
    for changed in (
        guide_attention(model, other),
        perturb(model, 1.0),
        perturb(model, 0.0, 2.0),
        perturb(model, skip=1.0),
    ):
        assert relative(ask(changed), plain) > 1e-4
    both = perturb(guide_attention(model, other), skip=1.0)
    assert relative(ask(both), ask(perturb(model, skip=1.0))) > 1e-4


def small(**fields):
    network = MMDiT(16, 2, 3, out_channels=4, positions=6, **fields)
    x = jax.random.normal(jax.random.key(1), (8, 8, 4))
    cond = {"context": jnp.ones((5, 6)), "vector": jnp.ones(3)}
    scale = {"scale": jnp.zeros(())} if network.guided else {}
    params = randomised(jax.jit(network.init)(jax.random.key(0), x, jnp.zeros(()), cond, **scale), 0.1)
    return gj.Network(params, network.apply, gj.parameterizations.velocity, batched=False), x, cond


@pytest.mark.slow
def test_a_scale_goes_where_it_is_an_input():
    level = gj.RectifiedFlow()(0.5)
    for guided, fitting in ((False, None), (True, 2.0)):
        model, x, cond = small(guided=guided)
        own = dataclasses.replace(model, scale=fitting)
        assert np.isfinite(jax.jit(lambda m, x, cond: m(x, level, cond, (), None)[0].x0)(own, x, cond)).all()
        wrong = dataclasses.replace(model, scale=None if guided else 2.0)
        with pytest.raises(gj.Refused, match="the guidance scale as an input" if guided else "no scale as an input"):
            wrong(x, level, cond, (), None)
    with pytest.raises(gj.Refused, match="a dict of context, vector, got context"):
        own(x, level, {"context": cond["context"]}, (), None)
    with pytest.raises(gj.Refused, match="do not tile samples"):
        own(x[:7], level, cond, (), None)
    with pytest.raises(gj.Refused, match="the table of positions has 6 patches on a side"):
        own(jnp.zeros((16, 16, 4)), level, cond, (), None)


def test_the_middle_of_the_table_of_positions_is_read():
    """A sample of another size stands in its middle, whatever is around it."""
    model, x, cond = small()
    table = model.params["params"]["pos_embed"].reshape(6, 6, -1)
    inside = jnp.zeros((6, 6), bool).at[1:5, 1:5].set(True)[..., None]
    params = {"params": {**model.params["params"], "pos_embed": jnp.where(inside, table, 9.0).reshape(36, -1)}}
    level = gj.RectifiedFlow()(0.5)
    ask = jax.jit(lambda params: dataclasses.replace(model, params=params)(x, level, cond, (), None)[0].x0)
    np.testing.assert_allclose(ask(params), ask(model.params), atol=1e-6)


def test_distances_in_a_caption_are_t5_s():
    """Its own buckets of 32 up to a distance of 128: the ends, and the first distance of each."""
    row = distance_buckets(300, 32, 128)[150]
    assert row[150] == 0
    assert row[:150].max() == 15
    assert (row[151:].min(), row[151:].max()) == (17, 31)
    firsts = [int(np.argmax(row[150::-1] == i)) for i in range(16)]
    assert firsts == [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91]
    np.testing.assert_array_equal(row[151:] - 16, row[149:0:-1][: len(row[151:])])


@pytest.mark.slow
def test_a_folder_without_t5_reads_zeros_in_its_place(folders, tmp_path):
    folder = shutil.copytree(folders["sd3"], tmp_path / "sd3")
    for part in ("text_encoder_3", "tokenizer_3"):
        shutil.rmtree(folder / part)
    change(folder / "model_index.json", text_encoder_3=[None, None], tokenizer_3=[None, None])
    cond, want = gj.load(folder).conditions(CAPTIONS), read("sd3")["context"]
    assert relative(cond["context"][:, :16], want[:, :16]) < 1e-5
    assert cond["context"].shape == want.shape
    assert not np.any(cond["context"][:, 16:])


@pytest.mark.slow
def test_schnell_s_timesteps_are_those_of_its_pipeline(folders, tmp_path):
    """No shift, no guidance as an input; what the files leave out is diffusers' default; half of T5's tokens."""
    folder = shutil.copytree(folders["flux"], tmp_path / "flux")
    change(folder / "scheduler/scheduler_config.json", use_dynamic_shifting=False, shift=1.0)
    about = folder / "transformer/config.json"
    told = json.loads(about.read_text())
    for key in ("guidance_embeds", "out_channels", "patch_size"):
        told.pop(key)
    about.write_text(json.dumps(told))
    state = load_file(folder / "transformer/diffusion_pytorch_model.safetensors")
    rest = {k: v for k, v in state.items() if "guidance_embedder" not in k}
    save_file(rest, folder / "transformer/diffusion_pytorch_model.safetensors")
    pipeline = gj.load(folder).resize(16, 16)
    np.testing.assert_allclose(pipeline.levels(4).sigma, [1, 0.75, 0.5, 0.25, 0], atol=1e-6)
    assert pipeline.conditions(CAPTIONS)["context"].shape[1] == 256
    assert DEFAULTS["FluxTransformer2DModel"]["axes_dims_rope"] == [16, 56, 56]


@pytest.mark.slow
def test_t5_reads_what_clip_cannot(pipelines):
    """A caption of more tokens than CLIP has: its first ones and the end; of more than T5 has, a refusal."""
    long = "the red cat, " * 8
    for pipeline in pipelines.values():
        found, cut = (pipeline.conditions([caption]) for caption in (long, "the red cat, " * 7))
        assert relative(found["context"], np.asarray(cut["context"])) > 1e-4
        with pytest.raises(gj.Refused, match="are accepted; shorten it"):
            pipeline.conditions([long * 60])
    weighed = pipeline.null("the (dog:2)", weighted=True)["context"]
    assert relative(weighed, np.asarray(pipeline.null("the dog")["context"])) > 1e-4


def test_the_scheduler_of_flows_is_read_or_refused_by_name():
    about = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
    assert process(about).grid == {"name": "shifted", "start": 1.0, "shift": 3.0, "end": 3 / 1002}
    moving = process(about | {"use_dynamic_shifting": True, "max_shift": 1.2})
    assert moving.grid == {"name": "shifted", "start": 1.0, "end": 0.001}
    assert moving.shift == {"least": 0.5, "most": 1.2, "least_tokens": 256, "most_tokens": 4096}
    for wrong, message in (
        ({"shift": "3"}, "shift = 3, expected a value like 1.0"),
        ({"shift": -1.0}, "shift = -1.0, expected a value like 1.0"),
        ({"use_dynamic_shifting": 1}, "use_dynamic_shifting = 1, expected a value like False"),
        ({"use_karras_sigmas": True}, "use_karras_sigmas = 'True', which is not supported"),
        ({"new": 3}, "new = '3', which is not supported"),
    ):
        with pytest.raises(gj.Refused, match=message):
            process(about | wrong)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("sd3", {"dual_attention_layers": [1, 2]}, r"second attention in the blocks \[1, 2\]"),
        ("sd3", {"qk_norm": "layer_norm"}, "qk_norm = 'layer_norm', supported is rms_norm"),
        ("sd3", {"num_layers": 3}, "has no place in MMDiT"),
        ("flux", {"axes_dims_rope": [4, 4, 8]}, "axes .4, 4, 8."),
        ("flux", {"new_option": 3}, "new_option = 3, which is not supported"),
        ("flux", {"guidance_embeds": False}, "guidance_embedder"),
    ],
)
def test_transformers_of_another_kind_are_one_line(name, values, message, folders, tmp_path):
    folder = shutil.copytree(folders[name], tmp_path / name)
    change(folder / "transformer" / "config.json", **values)
    with pytest.raises(gj.Refused, match=message):
        gj.load(folder)


@pytest.mark.slow
def test_a_t5_of_another_kind_is_one_line(folders, tmp_path):
    folder = shutil.copytree(folders["sd3"], tmp_path / "sd3")
    change(folder / "text_encoder_3" / "config.json", feed_forward_proj="relu")
    with pytest.raises(gj.Refused, match="feed_forward_proj = 'relu' is not supported"):
        gj.load(folder)
    shutil.copy(folders["sd3"] / "text_encoder_3/config.json", folder / "text_encoder_3/config.json")
    state = load_file(folder / "text_encoder_3/model.safetensors")
    del state["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    save_file(state, folder / "text_encoder_3/model.safetensors")
    with pytest.raises(gj.Refused, match="no tensor for relative_attention_bias"):
        gj.load(folder)


@pytest.mark.slow
def test_z_image_is_that_of_diffusers(tmp_path, measured):
    """Two captions, of which the longer one needs a second block of 32 tokens; 48 patches, filled up to 64.

    Without time the networks agree to rounding. Both embed the time in float32, wrong by up to 5e-5 at t = 1.
    """
    pipeline, want = gj.load(whole("z_image", tmp_path / "z")).resize(16, 48), read("z_image")
    cond, null = pipeline.conditions(["the red cat", "a dog, running over the whole page!"]), pipeline.null("the dog")
    for found, real, other in (
        *((cond["context"][i], cond["real"][i], want[f"context_{i}"]) for i in range(2)),
        (null["context"], null["real"], want["null"]),
    ):
        assert real.sum() == len(other)
        assert relative(found[: len(other)], other) < 1e-5
    x, apply = last(want["noise"]), pipeline.model.apply
    ask = jax.jit(jax.vmap(partial(apply, pipeline.model.params)))
    for what, t, limit in (("still", jnp.zeros(2), 1e-5), ("net", jnp.array([0.25, 0.96875]), 5e-5)):
        found = relative(channels_first(ask(x, t, cond)), want[what])
        measured(f"Z-Image: {what} of diffusers", found)
        assert found < limit
    levels = pipeline.levels(10)
    np.testing.assert_allclose(levels.sigma, want["sigmas"], atol=1e-6)
    kernel = gj.Reverse(gj.CFG(pipeline.model, null, 5.0), gj.DDIM())  # their scale is ours less 1
    latents = gj.generate(gj.keys(0, 2), kernel, levels, pipeline.shape, cond, x)
    measured("Z-Image: latents of diffusers", relative(channels_first(latents), want["latents"]))
    assert relative(channels_first(latents), want["latents"]) < 2e-4
    assert np.abs(np.clip(pipeline.decode(latents) / 2 + 0.5, 0, 1) - want["images"]).max() < 2e-4
    plain = np.asarray(ask(x, jnp.zeros(2), cond))
    strange = cond | {"context": jnp.where(cond["real"][..., None] > 0, cond["context"], 7.0)}
    np.testing.assert_array_equal(ask(x, jnp.zeros(2), strange), plain)  # what lies behind a caption is not seen
    with pytest.raises(gj.Refused, match="CLIP or T5"):
        pipeline.conditions(["a (red:1.2) cat"], weighted=True)
    with pytest.raises(gj.Refused, match="perturb needs a network that takes perturbation=, got ZImage"):
        perturb(pipeline.model, skip=1.0)
    with pytest.raises(gj.Refused, match="needs a network that reads captions by attention, got ZImage"):
        guide_attention(pipeline.model, null)
    with pytest.raises(gj.Refused, match="conditioned on a dict of context, real"):
        apply(pipeline.model.params, x[0], 0.0, {"context": cond["context"][0]})


@pytest.mark.slow
def test_z_images_of_another_kind_are_one_line(tmp_path):
    folder = whole("z_image", tmp_path / "z")
    for path, values, message in (
        ("transformer/config.json", {"n_kv_heads": 1}, "2 heads of .*, 1 of keys, which is not supported"),
        ("transformer/config.json", {"axes_dims": [4, 6, 4]}, "which is not supported"),
        ("transformer/config.json", {"siglip_feat_dim": 8}, "siglip_feat_dim = 8, which is not supported"),
        ("transformer/config.json", {"all_patch_size": [2, 4]}, "all_patch_size"),
        ("text_encoder/config.json", {"model_type": "llama"}, "of the kind 'llama' is not supported"),
    ):
        before = (folder / path).read_text()
        change(folder / path, **values)
        with pytest.raises(gj.Refused, match=message):
            gj.load(folder)
        (folder / path).write_text(before)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NAMES, "z_image"])
def test_a_caption_becomes_a_picture(name, run):  # noqa: F811
    """From diffusers' folder and from the converted one, the same; FLUX by its learned scale."""
    models = whole(name, run.folder / name)
    how = {"sd3": ("--scale", 5), "flux": ("--size", "16x16"), "z_image": ("--scale", 5, "--size", "16x16")}[name]
    asked = ("--prompt", "the red cat", "--steps", 3, "--n", 2, *how)
    left = run("convert", models, "--out", "own")
    assert left.returncode == 0, left.stderr
    for folder, out in ((models, "a.npz"), ("own", "b.npz")):
        left = run("sample", "--models", folder, *asked, "--out", out)
        assert left.returncode == 0, left.stderr
    a, b = (np.load(run.folder / out)["arr_0"] for out in ("a.npz", "b.npz"))
    assert a.shape == (2, 16, 16, 3)
    np.testing.assert_array_equal(a, b)
    about = json.loads((run.folder / "a.json").read_text())
    assert about["prompts"] == ["the red cat"]
    assert about["method"] == ({"name": "Learned", "scale": 3.5} if name == "flux" else {"name": "CFG"})
    if name == "flux":  # the scale that is asked for goes over the usual one
        assert Request(models=str(models), scale=2.0, given=frozenset({"scale"})).method == {"name": "Learned"}


def in_one_file(name, folder):
    """The tensors of a folder by the names of single files: rows of what diffusers' own converter made of each."""
    table = json.loads((GOLDEN / "pipelines/single_files.json").read_text())[name]
    found = {}
    for key, value in weights(folder / "transformer").items():
        own, *runs = table[key]
        rows = found.setdefault(own, {})
        at = [row for start, stop in runs for row in range(start, stop)]
        rows |= dict(zip(at, value, strict=True))
    return {own: np.stack([rows[i] for i in range(len(rows))]) for own, rows in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_single_file_holds_what_the_folder_does(name, folders, tmp_path, monkeypatch):
    """The same parts, and with the folders of the tokenizers the same conditions and levels."""
    monkeypatch.setitem(single_file.AXES, 16, [4, 6, 6])
    folder = folders[name]
    tensors = in_one_file(name, folder)
    if name == "sd3":
        vae = weights(folder / "vae")
        tensors |= {f"first_stage_model.{stable_diffusion.autoencoder_name(k, 2)}": v for k, v in vae.items()}
        for part, text in (("", "clip_l"), ("_2", "clip_g"), ("_3", "t5xxl")):
            state = weights(folder / f"text_encoder{part}")
            tensors |= {f"text_encoders.{text}.transformer.{k}": v for k, v in state.items()}
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, tmp_path / "one.safetensors")
    parts, want = file_of_transformer(Tensors(tmp_path / "one.safetensors"), groups=4), read_diffusers(folder)
    assert list(parts.parts) == (list(want.parts) if name == "sd3" else ["denoiser"])
    assert parts.pipeline["grid"] == want.pipeline["grid"]
    assert parts.pipeline["reads"] == want.pipeline["reads"]
    for part, (_, params) in parts.parts.items():
        jax.tree.map(np.testing.assert_array_equal, params, want.parts[part][1])
    if name == "sd3":
        t5, wanted = (own.parts["text_3"][0]["network"] for own in (parts, want))
        assert t5 == wanted | {"farthest": 128}  # which no tensor says
        with pytest.raises(gj.Refused, match=r"text_3 is a T5, whose tokenizer is expected in .*tokenizer_3"):
            add_tokenizers(parts, folder / "tokenizer")
        add_tokenizers(parts, folder)
        for part, own in parts.tokenizers.items():
            np.testing.assert_array_equal(own(CAPTIONS), want.tokenizers[part](CAPTIONS))
    else:
        one = convert(tmp_path / "one.safetensors", tmp_path / "out")
        assert [n for n, _, _ in one] == ["denoiser"]
    tensors["model.diffusion_model.strange.weight" if name == "sd3" else "strange.weight"] = np.zeros(3, np.float32)
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, tmp_path / "two.safetensors")
    with pytest.raises(gj.Refused, match=r"strange\.weight .* has no place in"):
        file_of_transformer(Tensors(tmp_path / "two.safetensors"), groups=4)


@pytest.mark.slow
def test_text_encoders_are_given_up_once_captions_are_read(folders):
    request = Request(models=str(folders["sd3"]), prompts=("the red cat",), steps="2")
    asked = plan(request, 1)
    size = sum(a.nbytes for a in jax.tree.leaves([encoder.params for encoder in asked.pipeline.text]))
    before = sum(a.nbytes for a in jax.live_arrays())
    free_encoders(asked.pipeline)
    assert before - sum(a.nbytes for a in jax.live_arrays()) >= size > 10_000
    drawn = asked.draw(gj.sample_mesh(1), gj.keys(0, 1), np.arange(1))
    assert np.isfinite(asked.pictures(drawn)).all()
    assert np.isfinite(plan(request, 1).conditions(np.arange(1))["context"]).all()  # read again


@pytest.mark.slow
def test_skipped_layers_guide_a_picture(pipelines):
    """`Autoguidance` away from SD3 without its middle: scale 1 is the model itself."""
    pipeline, want = pipelines["sd3"], read("sd3")
    cond, given = pipeline.conditions(CAPTIONS), (pipeline.levels(4), pipeline.shape)
    weak = perturb(pipeline.model, skip=1.0)

    def drawn(model):
        return gj.generate(gj.keys(0, 2), gj.Reverse(model, gj.DDIM()), *given, cond, last(want["noise"]))

    plain = drawn(pipeline.model)
    assert relative(drawn(Autoguidance(pipeline.model, weak, 1.0)), np.asarray(plain)) < 1e-4
    assert relative(drawn(Autoguidance(pipeline.model, weak, 3.0)), np.asarray(plain)) > 1e-3


@pytest.mark.slow
def test_an_adapter_is_merged_as_peft_merges_it(tmp_path):
    """Linear maps and convolutions of the U-Net and of the text encoder, alpha 3 for rank 2, at strength 0.7."""
    folder, want = whole("sd15", tmp_path / "sd15"), np.load(GOLDEN / "lora/sd15.npz")
    adapter = Adapter(GOLDEN / "lora/sd15.safetensors", 0.7)
    found = {part: merge(weights(folder / part), part, [adapter]) for part in ("unet", "text_encoder")}
    check_used([adapter])
    for key in want.files:
        part, _, name = key.partition(".")
        np.testing.assert_allclose(found[part][name], want[key], atol=1e-6)
    assert len(want.files) == 32


def renamed(state, prefix):
    """kohya's names of the tensors of diffusers' file, with its alpha in each module."""
    found = {}
    for key, value in state.items():
        module, kind, _ = key.rsplit(".", 2)
        part, _, name = module.partition(".")
        name = f"{prefix[part]}_{name.replace('.', '_')}"
        found[f"{name}.{'lora_down' if kind == 'lora_A' else 'lora_up'}.weight"] = value
        found[f"{name}.alpha"] = np.array(3, np.float32)
    return found


@pytest.mark.slow
def test_the_names_of_kohya_mean_the_same(tmp_path):
    folder = whole("sd15", tmp_path / "sd15")
    state = load_file(GOLDEN / "lora/sd15.safetensors")
    save_file(renamed(state, {"unet": "lora_unet", "text_encoder": "lora_te"}), tmp_path / "kohya.safetensors")
    models = [
        gj.load_diffusers(folder, lora=file).model.params
        for file in (GOLDEN / "lora/sd15.safetensors", tmp_path / "kohya.safetensors")
    ]
    for a, b in zip(*map(jax.tree.leaves, models), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_adapters_that_cannot_be_merged_are_one_line(tmp_path):
    folder, state = whole("sd15", tmp_path / "sd15"), load_file(GOLDEN / "lora/sd15.safetensors")
    key = next(key for key in state if key.startswith("unet."))
    module = key.rpartition(".lora_")[0]
    other = {k: v for k, v in state.items() if k != key}
    told = {"lora_adapter_metadata": json.dumps({"unet.use_dora": True})}
    for changed, about, message in (
        ({**state, f"{module}.lora_magnitude_vector": state[key]}, None, "which is not part of a LoRA"),
        (other, None, "has only one of A and B"),
        ({**other, key: state[key][:1]}, None, "has A of shape|has B of shape"),
        ({**other, key.replace("unet.", "unet.nowhere."): state[key]}, None, "changes nowhere|only one of A and B"),
        ({k.replace("unet.", "transformer."): v for k, v in state.items()}, None, "this model has no such part"),
        ({k.replace("unet.", "other."): v for k, v in state.items()}, None, "known are unet., transformer."),
        (state, told, "use_dora = True, which cannot be merged"),
    ):
        save_file(changed, tmp_path / "lora.safetensors", metadata=about)
        with pytest.raises(gj.Refused, match=message):
            gj.load_diffusers(folder, lora=tmp_path / "lora.safetensors")
    with pytest.raises(gj.Refused, match="expected a finite number"):
        gj.load_diffusers(folder, lora={GOLDEN / "lora/sd15.safetensors": float("nan")})
    with pytest.raises(gj.Refused, match="holds 0 files of a LoRA"):
        gj.load_diffusers(folder, lora=folder / "unet")


@pytest.mark.slow
def test_chunks_are_read_one_by_one(folders):
    """A long caption is what its parts are, one behind the other; a short one is filled up with empty chunks."""
    with pytest.raises(gj.Refused, match="only CLIP reads"):
        gj.load(folders["sd3"]).lengthen(2)
    plain = gj.load_diffusers(whole("sd15", folders["sd3"].parent / "sd15"))
    words = ["the", "red", "cat,", "zebra", "a", "dog;", "zebra", "red", "dog"]  # CLIP here reads 14 tokens at once
    tokens = [len(plain.text[0].tokenizer.rule.encode(w).ids) - 2 for w in words]
    assert np.cumsum(tokens).tolist() == [1, 2, 4, 9, 10, 12, 17, 18, 19]  # the third zebra goes over whole
    first, rest = " ".join(words[:6]), " ".join(words[6:])
    with pytest.raises(gj.Refused, match="tokens, at most 16 are accepted; shorten it"):
        plain.conditions([" ".join(words)])
    for count in (2, 3):
        long = plain.lengthen(count)
        found = long.conditions([" ".join(words), first])
        assert found["context"].shape[1:] == dict(long.domain.context)["context"] == (16 * count, 16)
        parts = plain.conditions([first, rest, ""])["context"]
        want = jnp.concatenate([parts[0], parts[1], *[parts[2]] * (count - 2)])
        np.testing.assert_array_equal(found["context"][0], want)
        np.testing.assert_array_equal(found["context"][1], jnp.concatenate([parts[0], *[parts[2]] * (count - 1)]))
        pooled = [own.text[0]([text])["pooled"] for own, text in ((long, " ".join(words)), (plain, first))]
        np.testing.assert_array_equal(*pooled)  # of the first chunk
        weighed = long.conditions([f"{first} ({rest}:1)"], weighted=True)["context"][0]
        np.testing.assert_allclose(weighed, found["context"][0], atol=1e-5)
    with pytest.raises(gj.Refused, match="needs 4 chunks, got chunks=2"):
        plain.lengthen(2).conditions([" ".join(words * 2)])
    with pytest.raises(gj.Refused, match="a word of"):
        plain.lengthen(9).conditions(["x" * 40])
    kernel = gj.Reverse(gj.CFG(long.model, long.null(), 3.0), gj.DDIM())
    drawn = gj.generate(gj.keys(0, 2), kernel, long.levels(2), long.shape, found)
    assert np.isfinite(drawn).all()


@pytest.mark.slow
def test_captions_come_from_a_file_in_chunks_and_together(run):  # noqa: F811
    models = whole("sd15", run.folder / "sd15")
    (run.folder / "captions.txt").write_text("the red cat\n\na zebra, a dog; a zebra, the cat\n")
    common = ("sample", "--models", models, "--steps", 2, "--n", 4, "--out")
    left = run(*common, "a.npz", "--prompt-file", "captions.txt", "--chunks", 2)
    assert left.returncode == 0, left.stderr
    about = json.loads((run.folder / "a.json").read_text())
    assert about["prompts"] == ["the red cat", "a zebra, a dog; a zebra, the cat"]
    assert np.load(run.folder / "a.npz")["arr_1"].tolist() == [0, 1, 0, 1]
    both = ("--prompt", "the red cat", "--prompt", "a dog")
    left = run(*common, "b.npz", *both, "--method", "Compose", "--set", "weights=[2.0, 0.5]")
    assert left.returncode == 0, left.stderr
    pipeline = gj.load(models)
    cond = jax.tree.map(lambda a: jnp.stack([a] * 4), pipeline.conditions(["the red cat", "a dog"]))
    kernel = gj.Reverse(gj.guidance.Compose(pipeline.model, pipeline.null(), [2.0, 0.5]), gj.DDIM())
    latents = gj.generate(gj.keys(0, 4), kernel, pipeline.levels(2), pipeline.shape, cond)
    want = to_uint8(pipeline.decode(latents))
    found = np.load(run.folder / "b.npz")["arr_0"]
    assert np.abs(found.astype(int) - want).max() <= 1
    assert (np.load(run.folder / "b.npz")["arr_1"] == 0).all()
    (run.folder / "empty.txt").write_text("\n")
    for name, what in (("empty.txt", "holds no captions"), ("none.txt", "none.txt")):
        left = run(*common, "c.npz", "--prompt-file", name)
        assert left.returncode == 2
        assert what in left.stderr
        assert left.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_word_weighs_what_is_said(pipelines):
    """1 is the caption itself, 0 the empty one's states, in between and beyond a line; other words stay as they are."""
    for pipeline in pipelines.values():
        ask = partial(pipeline.conditions, weighted=True)
        plain, empty = (pipeline.conditions([caption])["context"][0] for caption in ("the red cat", ""))
        found = [ask([f"the (red:{w}) cat"])["context"][0] for w in (0, 1, 2)]
        np.testing.assert_allclose(found[1], plain, atol=1e-6)
        np.testing.assert_allclose(found[2] - found[1], found[1] - found[0], atol=1e-5)
        changed = np.abs(found[2] - found[1]).max(-1) > 1e-6
        assert 0 < changed.sum() < len(changed) / 4
        np.testing.assert_allclose(found[0][changed], empty[changed], atol=1e-5)
        assert np.any(ask(["the (red:2) cat"])["vector"] != ask([""])["vector"])
        assert relative(pipeline.conditions(["the (red:2) cat"])["context"][0], np.asarray(found[2])) > 1e-4
    for wrong in ("a (red cat", "a (red:11) cat", "a ((red:2):2) cat", "(red)"):
        with pytest.raises(gj.Refused, match="weigh"):
            ask([wrong])
