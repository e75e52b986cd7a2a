"""DiffusionGemma at tiny size: transformers' numbers, canvases one after the other, guidance, bad folders."""

import dataclasses
import json
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import guidance_jax as gj
from guidance_jax.discrete import Ancestral, EntropyBound
from guidance_jax.discrete.entropy_bound import within_bound
from guidance_jax.sample import sample
from guidance_jax.zoo.rotary.gemma import ask_experts
from guidance_jax.zoo.rotary.gemma_reader import load_canvas
from tests.test_cli import run  # noqa: F401

safetensors = pytest.importorskip("safetensors.numpy")
tokenizers = pytest.importorskip("tokenizers")
GOLDEN = dict(np.load("tests/golden/diffusion_gemma.npz"))
LETTERS = "_." + "".join(map(chr, range(97, 123))) + "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456"


def weights(name, shape):
    """The numbers of a tensor, as the golden file's were made."""
    a = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    return 1 + 0.3 * a if len(shape) == 1 else 0.4 * a


def write_folder(path, edit=None, drop=(), extra=(), **changes):
    """A folder as `save_pretrained` writes it, a letter a token; `changes` are of its `text_config`."""
    path.mkdir(exist_ok=True)
    config = json.loads(str(GOLDEN["config"]))
    config["text_config"] |= changes
    (path / "config.json").write_text(json.dumps(config))
    tensors = {n: weights(n, s) for n, s in json.loads(str(GOLDEN["tensors"])).items() if n not in drop}
    tensors |= {"model.encoder.vision_tower.a": np.zeros(3, np.float32), **dict(extra)}
    safetensors.save_file(tensors, path / "model.safetensors")
    rule = tokenizers.Tokenizer(tokenizers.models.WordLevel({c: i for i, c in enumerate(LETTERS)}, unk_token="_"))
    rule.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    rule.decoder = tokenizers.decoders.Fuse()
    rule.save(str(path / "tokenizer.json"))
    return path


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return gj.load(write_folder(tmp_path_factory.mktemp("gemma")))


def relative(a, b):
    return float(np.abs(np.asarray(a) - b).max() / np.abs(b).max())


def logits_of(pipeline, rows, size, thought):
    cond = pipeline.conditions(rows, size)
    params, network = pipeline.model.params, pipeline.network
    each = jax.jit(jax.vmap(lambda x, c, z: network.decode(params, x, c["cache"], c["padding"], z)))
    return each(jnp.asarray(GOLDEN["canvas"][: len(rows)]), cond, thought)


def test_logits_are_those_of_transformers(pipeline, measured):
    """Two samples at once, first step and self-conditioned, windows shorter than the prompt: 1e-5 of the largest."""
    rows, network = GOLDEN["ids"].tolist(), pipeline.network
    blank = jnp.zeros((2, 12, network.width))
    told = jax.vmap(lambda s: network.expect(pipeline.model.params, jax.nn.log_softmax(s)))(GOLDEN["soft"])
    measured("first step", relative(logits_of(pipeline, rows, 11, blank), GOLDEN["plain"]))
    assert relative(logits_of(pipeline, rows, 11, blank), GOLDEN["plain"]) < 1e-5
    assert relative(logits_of(pipeline, rows, 11, told), GOLDEN["told"]) < 1e-5
    assert relative(GOLDEN["told"], GOLDEN["plain"]) > 0.1


def test_padding_is_seen_by_nobody(pipeline):
    rows = [GOLDEN["ids"][0, 4:].tolist()]
    blank = jnp.zeros((1, 12, pipeline.network.width))
    for size in (7, 16, 23):
        assert relative(logits_of(pipeline, rows, size, blank), GOLDEN["bare"]) < 1e-5


def test_canvases_are_those_of_transformers_token_by_token(pipeline):
    """Everything accepted at a temperature near 0, so that nothing is random: two canvases of six steps and fewer."""
    heat = 1e-4
    model = dataclasses.replace(pipeline.model, temperature=heat)
    kernel = gj.Reverse(model, EntropyBound(heat, bound=1e9, stop=0.005))
    rows = GOLDEN["ids"].tolist()
    draw = jax.jit(jax.vmap(lambda x, c: sample(jax.random.key(0), kernel, pipeline.levels(6), x, c).x))
    for i, start in enumerate(GOLDEN["starts"]):
        x = np.asarray(draw(start.astype(np.int32), pipeline.conditions(rows, 23)))
        np.testing.assert_array_equal(x, GOLDEN["written"][:, 12 * i : 12 * i + 12])
        rows = [row + new for row, new in zip(rows, x.tolist(), strict=True)]


def test_accepted_positions_are_those_of_transformers():
    logits = 2 * np.load("tests/golden/token_schedulers.npz")["logits"]
    log_p = jax.nn.log_softmax(logits)
    entropy = -jnp.sum(jnp.exp(log_p) * log_p, -1)
    np.testing.assert_array_equal(jax.vmap(lambda h: within_bound(h, 0.7, jnp.argsort(h)))(entropy), GOLDEN["accepted"])


def test_experts_are_a_weighted_sum_whatever_the_batch():
    rng = np.random.default_rng(0)
    h, weight = rng.normal(size=(2, 3, 7, 5)), rng.uniform(size=(2, 3, 7, 2))
    which = rng.integers(0, 4, (2, 3, 7, 2))
    kernel_in, kernel_out = rng.normal(size=(4, 5, 12)), rng.normal(size=(4, 6, 5))

    def expert(e, h):
        gate, up = np.split(h @ kernel_in[e], 2, -1)
        return (np.asarray(jax.nn.gelu(gate)) * up) @ kernel_out[e]

    slow = np.zeros_like(h)
    for at in np.ndindex(2, 3, 7):
        slow[at] = sum(w * expert(e, h[at]) for e, w in zip(which[at], weight[at], strict=True))
    fast = jax.vmap(jax.vmap(ask_experts, (0, 0, 0, None, None)), (0, 0, 0, None, None))
    np.testing.assert_allclose(jax.jit(fast)(h, which, weight, kernel_in, kernel_out), slow, atol=1e-4)


def test_a_text_is_its_canvases_one_after_the_other(pipeline):
    keys = gj.keys(3, 2)
    x = pipeline.write(keys, ["Once", "A long prompt"], 20, steps=3)
    assert x.shape == (2, 20)
    rows, kernel = pipeline.encode(["Once", "A long prompt"]), gj.Reverse(pipeline.model, pipeline.solver)
    for i in range(2):
        cond = pipeline.conditions(rows, 28)
        own = jnp.stack([jax.random.fold_in(key, i) for key in keys])
        new = np.asarray(gj.generate(own, kernel, pipeline.levels(3), (12,), cond))
        rows = [row + n for row, n in zip(rows, new.tolist(), strict=True)]
    expected = np.array([row[-24:-4] for row in rows])
    for line, other in zip(x, expected, strict=True):
        end = [*other, 1].index(1)
        np.testing.assert_array_equal(line[:end], other[:end])
        assert set(line[end + 1 :].tolist()) <= {pipeline.pad}


def test_nothing_stands_behind_the_end(pipeline):
    """A guide that wants the end everywhere: one token, then padding, and the second canvas is not drawn."""
    wants = gj.discrete.PredictorGuidance(pipeline.model, lambda x, level, cond: 50.0 * jnp.sum(x == pipeline.end), 1.0)
    x = pipeline.write(gj.keys(0, 1), ["a"], 24, model=wants, steps=2)
    assert x.tolist() == [[pipeline.end] + [pipeline.pad] * 23]
    assert pipeline.decode(x) == [""]


def test_the_null_condition_is_another_prompt(pipeline):
    """Scale 1 is the model, 0 the model given the other prompt, and the first logits are contrasted in between."""
    rows, other = pipeline.encode(["Once"]), pipeline.encode(["A"])
    both, null = pipeline.conditions(rows, 16, other), {"is_other": True}
    x, level = jnp.asarray(GOLDEN["canvas"][0], jnp.int32), pipeline.levels(4).at(1)

    def log_p(model, cond):
        one = jax.tree.map(lambda a: a[0], cond)
        return jax.jit(lambda c: model(x, level, c, model.init(x), jax.random.key(0))[0].log_p)(one)

    mine, its = (log_p(pipeline.model, pipeline.conditions(r, 16)) for r in (rows, other))
    for scale in (0.0, 1.0, 2.5):
        guided = log_p(gj.CFG(pipeline.model, null, scale), both)
        np.testing.assert_allclose(guided, jax.nn.log_softmax(its + scale * (mine - its)), atol=2e-4)
    assert float(jnp.abs(mine - its).max()) > 0.1
    kernel, one = gj.Reverse(gj.CFG(pipeline.model, null, 1.5), pipeline.solver), jax.tree.map(lambda a: a[0], both)
    assert gj.diagnostics.ledger(kernel, pipeline.levels(3), (8,), one).calls == {"CanvasNetwork": 6}


def test_what_is_accepted_is_drawn_and_the_rest_is_noise():
    """One step of a known model at T = 2: accepted tokens follow p^(1/2), the others are uniform, in 20,000 draws."""
    p = np.array([[0.9, 0.05, 0.05], [0.4, 0.3, 0.3], [0.34, 0.33, 0.33]])
    solver, levels, x = EntropyBound(2.0, bound=0.9), gj.RectifiedFlow().levels(2), jnp.array([2, 2, 2])
    process = gj.Uniform(3)
    pred = gj.discrete.TokenPrediction(x, process.leave_one_out(jnp.log(p), x, levels.at(1)), process)

    def step(key):
        return solver.step(pred, levels.at(1), levels.at(1), None, solver.init(x), key)[0]

    x = jax.vmap(step)(gj.keys(0, 20_000))
    heat = np.sqrt(p) / np.sqrt(p).sum(1, keepdims=True)
    entropy = -(heat * np.log(heat)).sum(1)
    assert entropy[0] < 0.9 < entropy[0] + entropy[1]  # so two are accepted
    found = np.stack([(np.asarray(x) == v).mean(0) for v in range(3)], 1)
    np.testing.assert_allclose(found, [heat[0], heat[1], [1 / 3] * 3], atol=0.018)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_activation": "silu"}, "the activation 'silu' is not built"),
        ({"use_bidirectional_attention": "all"}, "a prompt that is not causal"),
        ({"layer_types": ["full_attention"]}, "layer_types are not 4 kinds"),
        ({"num_experts": 5}, "expected (5, 32)"),
        ({"top_k_experts": 9}, "top_k_experts = 9, expected a whole number from 1 to 4"),
        ({"final_logit_softcapping": "x"}, "final_logit_softcapping is 'x'"),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "of the kind 'yarn' are not built"),
        ({"drop": ["model.decoder.norm.weight"]}, "no tensor model.decoder.norm.weight"),
        ({"extra": {"model.decoder.extra": np.ones(2, np.float32)}}, "has a tensor that the network has not"),
        ({"extra": {"lm_head.weight": np.ones((61, 32), np.float32)}}, "and the two tensors differ"),
    ],
)
def test_folders_that_do_not_fit_are_refused(changes, message, tmp_path):
    with pytest.raises(gj.Refused, match=message.replace("(", r"\(").replace(")", r"\)")) as error:
        load_canvas(write_folder(tmp_path, **changes))
    assert "\n" not in str(error.value)


def test_a_folder_may_say_how_it_is_decoded(tmp_path, pipeline):
    folder = write_folder(tmp_path, eos_token_id=[7, 8])
    said = {"max_denoising_steps": 9, "t_min": 0.2, "t_max": 0.6, "sampler_config": {"entropy_bound": 0.3}}
    (folder / "generation_config.json").write_text(json.dumps(said))
    found = load_canvas(folder, "bfloat16")
    assert (found.steps, found.end, found.solver.bound) == (9, 7, 0.3)
    assert float(found.solver.temperature(pipeline.levels(2).at(1))) == pytest.approx(0.4, abs=1e-3)
    assert found.model.params["embed"].dtype == jnp.bfloat16
    x = found.write(gj.keys(0, 1), ["a"], 12, steps=2)
    assert x.min() >= 0


def test_the_other_prompt_may_be_the_longest_and_all_may_be_empty(pipeline):
    bare = dataclasses.replace(pipeline, begin=None)
    guided = gj.CFG(bare.model, {"is_other": True}, 1.0)
    plain = bare.write(gj.keys(0, 1), [""], 12, steps=2)
    for other in ("", "a" * 40):  # at scale 1 the other prompt changes nothing
        x = bare.write(gj.keys(0, 1), [""], 12, steps=2, model=guided, other=other)
        np.testing.assert_array_equal(x, plain)


def test_ends_of_prompts_and_solvers(pipeline):
    for bad, message in [
        (lambda: pipeline.write(gj.keys(0, 1), [], 12), "needs a prompt"),
        (lambda: pipeline.write(gj.keys(0, 1), ["a", "b"], 12), "2 prompts take as many keys"),
        (lambda: pipeline.write(gj.keys(0, 1), ["a"], 0), "one token or more, got 1, 0"),
        (lambda: pipeline.conditions([[1] * 5], 4), "do not fit 4"),
        (lambda: EntropyBound(bound=-1.0), "bound of EntropyBound must not be negative"),
        (lambda: EntropyBound(0.0), "temperature must be positive"),
        (lambda: EntropyBound(pipeline.solver.temperature, top_k=0), "top_k must be positive"),
    ]:
        with pytest.raises(gj.Refused, match=message):
            bad()
    x = pipeline.write(gj.keys(0, 1), ["a"], 12, steps=3, solver=Ancestral())
    assert x.shape == (1, 12)


@pytest.mark.slow
def test_texts_by_command(tmp_path, run):  # noqa: F811
    out = tmp_path / "texts.npz"
    folder = write_folder(tmp_path / "gemma")
    asked = ("sample", "--models", folder, "--prompt", "Once", "--length", 12, "--steps", 2, "--n", 2, "--out", out)
    drawn = {}
    for name, more in {
        "plain": (),
        "guided": ("--method", "CFG", "--scale", 3),
        "away": ("--method", "CFG", "--scale", 3, "--negative", "Twice"),
    }.items():
        found = run(*asked, *more)
        assert found.returncode == 0, found.stderr
        assert len(out.with_suffix(".txt").read_text().splitlines()) == 2
        drawn[name] = np.load(out)["arr_0"]
        assert drawn[name].shape == (2, 12)
    assert len({x.tobytes() for x in drawn.values()}) == 3
    for more, said in (
        (("--method", "PromptCFG"), "is no method for a model that reads prompts; CFG are"),
        (("--pattern", "a"), "--pattern is for masked models"),
        (("--label", "3"), "--labels is not for this model"),
    ):
        found = run(*asked, *more)
        assert found.returncode == 2, found.stdout
        assert said in found.stderr
        assert len(found.stderr.strip().splitlines()) == 1
