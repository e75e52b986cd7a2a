"""Language and protein models as published: networks, folders, decoding with caches, the command line."""

import json
import re
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import guidance_jax as gj
from guidance_jax.automata import Automaton
from guidance_jax.core import Bound
from guidance_jax.discrete import AdaptiveCFG, AutomatonGuidance, FirstHitting, PlannedUnmasking, PromptCFG, orders
from guidance_jax.zoo.rotary.reader import FAMILIES, read_network
from tests.test_cli import run  # noqa: F401

safetensors = pytest.importorskip("safetensors.numpy")
tokenizers = pytest.importorskip("tokenizers")
GOLDEN = dict(np.load("tests/golden/rotary.npz"))
KINDS = ["qwen3", "qwen2", "llama", "modernbert", "esm", "esmc", "mdlm"]
LETTERS = [chr(c) for c in range(97, 123)] + list('0123456789{}":, ')


def weights(name, shape):
    """The numbers of a tensor, as the golden file's were made."""
    a = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    return 1 + 0.1 * a if len(shape) == 1 and name.endswith(("weight", "gamma")) else 0.2 * a


def write_folder(path, kind, shards=1, **changes):
    """A folder as `save_pretrained` writes it."""
    path.mkdir(exist_ok=True)
    config = json.loads(str(GOLDEN[f"{kind}_config"])) | changes
    (path / "config.json").write_text(json.dumps(config))
    tensors = {n: weights(n, s) for n, s in json.loads(str(GOLDEN[f"{kind}_tensors"])).items()}
    names = sorted(tensors)
    if shards == 1:
        safetensors.save_file(tensors, path / "model.safetensors")
        return path
    files = {n: f"model-{i % shards}.safetensors" for i, n in enumerate(names)}
    for file in set(files.values()):
        safetensors.save_file({n: tensors[n] for n in names if files[n] == file}, path / file)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    return path


def write_tokenizer(path):
    """A letter a token, bytes as GPT-2's and Qwen's tokenizers name them, a mask and an end."""
    rule = tokenizers.Tokenizer(tokenizers.models.BPE({"Ġ" if c == " " else c: i for i, c in enumerate(LETTERS)}, []))
    rule.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    rule.decoder = tokenizers.decoders.ByteLevel()
    rule.add_special_tokens(["<|mask|>", "<|end|>"])
    rule.save(str(path / "tokenizer.json"))
    about = {"mask_token": "<|mask|>", "eos_token": {"content": "<|end|>"}}
    (path / "tokenizer_config.json").write_text(json.dumps(about))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tokenizer(write_folder(tmp_path_factory.mktemp("text"), "qwen3"))


@pytest.fixture(scope="module")
def pipeline(folder):
    return gj.load(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_transformers(kind, tmp_path, measured):
    """transformers' own classes (MDLM: the authors') on the same weights, full attention: 1e-5 of the largest."""
    network, params, _ = read_network(write_folder(tmp_path, kind))
    logits = np.asarray(jax.jit(network.apply)(params, jnp.asarray(GOLDEN[f"{kind}_ids"])))
    error = np.abs(logits - GOLDEN[f"{kind}_logits"]).max() / np.abs(GOLDEN[f"{kind}_logits"]).max()
    measured("relative error", error)
    assert error < 1e-5


def test_a_network_that_is_told_the_noise_level(tmp_path):
    network, params, _ = read_network(write_folder(tmp_path, "mdlm", time_conditioning=True))
    logits = network.apply(params, jnp.asarray(GOLDEN["mdlm_ids"]), jnp.float32(0.6))
    np.testing.assert_allclose(logits, GOLDEN["mdlm_timed"], atol=1e-5 * np.abs(GOLDEN["mdlm_timed"]).max())


def test_several_files_are_one_checkpoint(tmp_path):
    one, several = (read_network(write_folder(tmp_path / str(k), "qwen2", k))[1] for k in (1, 3))
    jax.tree.map(np.testing.assert_array_equal, one, several)


def test_dream_reads_its_logits_one_place_to_the_left(tmp_path):
    plain, params, _ = read_network(write_folder(tmp_path / "a", "qwen2"))
    dream, _, _ = read_network(write_folder(tmp_path / "b", "qwen2", model_type="Dream"))
    x = jnp.asarray(GOLDEN["qwen2_ids"])
    raw, shifted = plain.apply(params, x), dream.apply(params, x)
    np.testing.assert_array_equal(shifted[1:], raw[:-1])
    np.testing.assert_array_equal(shifted[0], raw[0])


def test_llada_is_llama_by_other_names(tmp_path):
    """The same tensors as LLaDA calls them, in its gated order: the logits of transformers' Llama."""
    names = {"model.embed_tokens": "wte", "model.norm": "ln_f", "lm_head": "ff_out", "model.layers": "blocks"}
    names |= {"input_layernorm": "attn_norm", "post_attention_layernorm": "ff_norm", "self_attn.o_proj": "attn_out"}
    names |= {"mlp.gate_proj": "ff_proj", "mlp.up_proj": "up_proj", "mlp.down_proj": "ff_out", "self_attn.": ""}
    tensors = {}
    for name, shape in json.loads(str(GOLDEN["llama_tensors"])).items():
        new = name
        for old, other in names.items():
            new = new.replace(old, other)
        tensors[f"model.transformer.{new}"] = weights(name, shape)
    config = {"model_type": "llada", "embedding_size": 99, "d_model": 32, "mlp_hidden_size": 48, "n_layers": 2}
    config |= {"n_heads": 4, "rope_theta": 5e5, "rms_norm_eps": 1e-5, "activation_type": "silu"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    safetensors.save_file(tensors, tmp_path / "model.safetensors")
    network, params, _ = read_network(tmp_path)
    logits = network.apply(params, jnp.asarray(GOLDEN["llama_ids"]))
    np.testing.assert_allclose(logits, GOLDEN["llama_logits"], atol=1e-5 * np.abs(GOLDEN["llama_logits"]).max())


def test_a_network_of_masks_alone_is_finite(tmp_path):
    """ESM-2 divides by the share of tokens that are no masks."""
    network, params, config = read_network(write_folder(tmp_path, "esm"))
    assert np.isfinite(network.apply(params, jnp.full(7, config["mask_token_id"]))).all()


def test_half_precision_is_near(folder, pipeline):
    half = gj.load(folder, dtype="bfloat16")
    assert {a.dtype.name for a in jax.tree.leaves(half.model.params)} == {"bfloat16"}
    x, level = jnp.asarray(GOLDEN["qwen3_ids"]), pipeline.levels(2).at(0)
    a, b = (np.exp(p.model(x, level, {}, (), None)[0].log_p) for p in (half, pipeline))
    assert 0 < np.abs(a - b).max() < 0.1


def test_padding_changes_no_answer(pipeline):
    cond = pipeline.conditions(["hello world", "abc"], 24)
    assert cond["known"].shape == (2, 40)
    assert cond["padding"].tolist() == [5, 13]
    level = pipeline.levels(2).at(0)
    x = jnp.asarray(np.where(cond["known"][1] == -1, pipeline.mask, cond["known"][1]))
    padded, bare = (
        np.exp(pipeline.model(y, level, {"padding": pad}, (), None)[0].log_p) for y, pad in ((x, 13), (x[13:], 0))
    )
    np.testing.assert_allclose(padded[13:], bare, atol=1e-6)


@pytest.mark.slow
def test_prompts_stay_and_several_keys_give_several_answers(pipeline):
    cond = pipeline.conditions(["hello"] * 3, 16)
    known = cond["known"]
    models = [pipeline.model, PromptCFG(pipeline.model, "known", 2.0), AdaptiveCFG(pipeline.model, 2.0, prompt="known")]
    for model in models:
        x = np.asarray(gj.generate(gj.keys(0, 3), pipeline.kernel(model), pipeline.levels(8), known.shape[1:], cond))
        np.testing.assert_array_equal(x[known != -1], known[known != -1])
        assert (x != pipeline.mask).all()
        assert len({tuple(row) for row in x.tolist()}) == 3
    assert pipeline.decode(x)[0].startswith("hello")
    assert not pipeline.decode(x, cond)[0].startswith("hello")


def test_one_program_for_any_prompt_within_a_bucket(pipeline):
    from guidance_jax.sample import _generate

    sizes = []
    for prompt in ("a", "hello world", "a sentence of 16"):
        cond = pipeline.conditions([prompt], 8)
        gj.generate(gj.keys(0, 1), pipeline.kernel(), pipeline.levels(4), cond["known"].shape[1:], cond)
        sizes.append(_generate._cache_size())
    assert sizes[0] == sizes[1] == sizes[2]


JSON = r'\{"a": "[a-z]+", "b": [1-9][0-9]{0,2}\}'


@pytest.mark.parametrize("steps", [4, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 24))])
def test_every_text_is_json(pipeline, steps):
    cond = pipeline.conditions(["abc"] * 5, 24)
    rule = pipeline.rule(JSON, 24, cond["known"].shape[1])
    kernels = [pipeline.kernel(solver=PlannedUnmasking(within=rule))]
    kernels += [pipeline.kernel(AutomatonGuidance(pipeline.model, rule), FirstHitting())] if steps == 24 else []
    for kernel in kernels:
        levels = pipeline.levels(40 if len(kernels) == 2 and kernel is kernels[1] else steps)
        x = gj.generate(gj.keys(0, 5), kernel, levels, cond["known"].shape[1:], cond)
        for text in pipeline.decode(x, cond):
            assert re.fullmatch(JSON, text)
            assert set(json.loads(text)) == {"a", "b"}


@pytest.mark.slow
def test_rules_hold_with_a_cache_too(pipeline):
    """Blocks that are not written yet count by a flat model, so that the rule can still be met."""
    cond = pipeline.conditions(["abc"] * 3, 24)
    rule, cached = pipeline.rule(JSON, 24, 40), pipeline.in_blocks(8, 16, causal=True)
    solvers = {PlannedUnmasking(within=rule): cached, PlannedUnmasking(): AutomatonGuidance(cached, rule)}
    for solver, model in solvers.items():
        x = gj.generate(gj.keys(0, 3), pipeline.kernel(model, solver), pipeline.levels(24), (40,), cond)
        assert all(re.fullmatch(JSON, text) for text in pipeline.decode(x, cond))


BLOCK, BEGIN, TOTAL = 8, 16, 48


def blockwise(network, params, x, t, cond):
    return network.read(params, x, 0, None, cond["padding"], BLOCK)[0]


@pytest.fixture(scope="module")
def uncached(pipeline):
    return gj.TokenNetwork(
        pipeline.model.params, Bound(blockwise, pipeline.network), pipeline.model.process, batched=False
    )


@pytest.mark.slow
def test_a_cache_of_blocks_is_exact_for_block_causal_models(pipeline, uncached, measured):
    cond, cached = pipeline.conditions(["hello world", "abc"], 32), pipeline.in_blocks(BLOCK, BEGIN, causal=True)
    for wrap in (lambda m: m, lambda m: PromptCFG(m, "known", 2.0)):
        kernels = pipeline.kernel(wrap(uncached), PlannedUnmasking(block=BLOCK)), pipeline.kernel(wrap(cached))
        a, b = (gj.generate(gj.keys(0, 2), k, pipeline.levels(16), (TOTAL,), cond) for k in kernels)
        np.testing.assert_array_equal(a, b)
    x = jnp.asarray(a[0]).at[30:].set(pipeline.mask)
    own = {k: v[0] for k, v in cond.items()}
    p, q = (np.exp(m(x, pipeline.levels(2).at(0), own, m.init(x), None)[0].log_p) for m in (uncached, cached))
    measured("largest difference", np.abs(p - q)[24:32].max())
    np.testing.assert_allclose(p[24:32], q[24:32], atol=1e-6)


def test_a_cache_of_a_model_that_sees_everything_is_exact_if_always_filled_anew(pipeline, measured):
    cond = {k: v[0] for k, v in pipeline.conditions(["hello world"], 32).items()}
    x = jnp.asarray(np.where(cond["known"] == -1, pipeline.mask, cond["known"])).at[16:20].set(3)
    level, error = pipeline.levels(2).at(0), {}
    for refresh in (1, None):
        model = pipeline.in_blocks(BLOCK, BEGIN, causal=False, refresh=refresh)
        _, state = model(x, level, cond, model.init(x), None)
        now = x.at[20].set(5)
        p = np.exp(model(now, level, cond, state, None)[0].log_p)
        exact = np.exp(pipeline.model(now, level, cond, (), None)[0].log_p)
        error[refresh] = np.abs(p - exact)[16:24].max()
        measured(f"refresh {refresh}", error[refresh])
    assert error[1] < 1e-6 < error[None] < 0.05


@pytest.mark.slow
def test_an_exact_solver_decodes_in_blocks_too(pipeline):
    cond, model = pipeline.conditions(["hello"], 32), pipeline.in_blocks(BLOCK, BEGIN, causal=True)
    x = gj.generate(gj.keys(0, 1), pipeline.kernel(model, FirstHitting()), pipeline.levels(TOTAL), (TOTAL,), cond)
    assert (np.asarray(x) >= 0).all()
    one = {k: v[0] for k, v in cond.items()}
    kernel = pipeline.kernel(gj.CFG(model, one, 2.0), PlannedUnmasking(0.0))
    assert gj.diagnostics.ledger(kernel, pipeline.levels(8), (TOTAL,), one).calls == {"CachedNetwork": 16}


# other people's schedulers, at temperature 0

SCHEDULERS = dict(np.load("tests/golden/token_schedulers.npz"))


@pytest.mark.parametrize(
    ("name", "options"),
    [("plain", {}), ("threshold", {"threshold": 0.6}), ("edit", {"threshold": 0.6, "edit": 0.5})],
)
def test_planned_unmasking_is_the_block_refinement_of_diffusers(name, options):
    """The same tokens at every step, for logits that change from step to step."""
    logits, wanted = SCHEDULERS["logits"], SCHEDULERS[f"refine_{name}"]
    process, x = gj.Absorbing(11, mask=10), jnp.full(32, 10, jnp.int32)
    solver, levels = PlannedUnmasking(0.0, order=orders.low_confidence, **options), gj.RectifiedFlow().levels(12)
    state = solver.init(x)
    for i, tokens in enumerate(wanted):
        log_p = process.without_mask(jax.nn.log_softmax(jnp.asarray(logits[i])))
        pred = gj.discrete.TokenPrediction(x, log_p, process)
        left = int(np.sum(np.asarray(x) == 10))
        quota = 3 if i < 8 else 2  # of 32 tokens in 12 steps
        if left and name == "plain":
            x, state = solver.step(pred, levels.at(i), levels.at(i + 1), None, state, jax.random.key(i))
        elif left or name == "edit":  # their division does not see how many are left
            share = min(quota / max(left, 1), 1.0)
            t, s = gj.RectifiedFlow()(jnp.float32(1.0)), gj.RectifiedFlow()(jnp.float32(1 - share))
            x, state = solver.step(pred, t, s, None, state, jax.random.key(i))
        np.testing.assert_array_equal(x, tokens, err_msg=f"step {i}")


def test_entropy_bound_accepts_what_diffusers_accepts():
    process = gj.Absorbing(11, mask=10)
    solver, none = PlannedUnmasking(order=orders.entropy, bound=0.7), gj.RectifiedFlow()(jnp.float32(1.0))
    for logits, wanted in zip(SCHEDULERS["logits"], SCHEDULERS["accepted"], strict=True):
        pred = gj.discrete.TokenPrediction(
            jnp.full(32, 10), process.without_mask(jax.nn.log_softmax(2 * jnp.asarray(logits))), process
        )
        found = solver.reveal(pred, None, none, none, 0, jax.random.key(0))
        np.testing.assert_array_equal(found, wanted)


def test_uniform_transitions_are_those_of_discrete_ddim():
    """Their step at temperature 0, 4,000 draws a position, and their leave-one-out logits, exactly."""
    process, x = gj.Uniform(10), jnp.asarray(SCHEDULERS["tokens"], jnp.int32)
    flow = gj.RectifiedFlow()
    for alpha, wanted in zip((0.1, 0.5, 0.9), SCHEDULERS["loo"], strict=True):
        log_p = jax.nn.log_softmax(jnp.asarray(SCHEDULERS["plain"]))
        found = process.leave_one_out(log_p, x, flow(jnp.float32(1 - alpha)))
        np.testing.assert_allclose(found, wanted, atol=2e-5)
    sure = jax.nn.log_softmax(1e4 * jax.nn.one_hot(jnp.argmax(jnp.asarray(SCHEDULERS["plain"]), 1), 10))
    levels = flow.levels(4)
    for i, wanted in enumerate(SCHEDULERS["ddim"]):
        pred = gj.discrete.TokenPrediction(x, sure, process)
        p = np.exp(process.transition(pred, levels.at(i), levels.at(i + 1)).log_q)
        assert np.abs(p - wanted).max() < 5 * 0.5 / np.sqrt(4000)


# the command line, and what is refused


@pytest.mark.slow
def test_a_prompt_becomes_text(run, folder, tmp_path):  # noqa: F811
    out = tmp_path / "answers.npz"
    asked = ("--models", folder, "--prompt", "hello", "--prompt", "abc", "--n", "3", "--length", "12", "--out", out)
    for more in (("--method", "CFG", "--scale", "1.5", "--steps", "4"), ("--set", "solver.order=entropy")):
        found = run("sample", *asked, *more)
        assert found.returncode == 0, found.stderr
        assert found.stdout.count("|") == 3
        assert len(out.with_suffix(".txt").read_text().splitlines()) == 3
    found = run("sample", *asked, "--pattern", "[a-z]+[0-9]{2}", "--steps", "3")
    assert all(re.fullmatch("[a-z]+[0-9]{2}", line) for line in out.with_suffix(".txt").read_text().splitlines())
    assert json.loads(out.with_suffix(".json").read_text())["length"] == 12
    for more, said in (
        (("--method", "Classifier"), "is no method for a model that reads prompts"),
        (("--label", "3"), "--labels is not for this model, which writes text"),
        (("--pattern", "a("), "is not a valid regular expression"),
        (("--pattern", "[a-z]{40}"), "no sequence of"),
        (("--pattern", "a", "--solver", "FirstHitting"), "--pattern is of the solver PlannedUnmasking"),
        (("--devices", "1", "--split"), "a model of text is sampled on one device"),
    ):
        found = run("sample", *asked, *more)
        assert found.returncode == 2, found.stdout
        assert said in found.stderr
        assert len(found.stderr.strip().splitlines()) == 1


def test_folders_that_cannot_be_read(tmp_path, folder):
    cases = [
        (lambda p: write_folder(p, "qwen3", model_type="mamba"), "is for a 'mamba' model"),
        (lambda p: write_folder(p, "qwen3", hidden_size=64), "expected (99, 64)"),
        (lambda p: write_folder(p, "qwen3", num_hidden_layers=3), "3 layers, but the tensors have 2"),
        (lambda p: write_folder(p, "qwen3", rope_parameters={"rope_type": "yarn"}), "scales its rotary positions"),
        (lambda p: write_folder(p, "qwen3", vocab_size=None), "vocab_size = None"),
        (lambda p: write_folder(p, "qwen3", model_type=["qwen3"]), "is for a \"['qwen3']\" model"),
        (lambda p: write_folder(p, "qwen2", use_sliding_window=True), "within a sliding window is not supported"),
        (lambda p: write_folder(p, "llama", tie_word_embeddings=True), "the two tensors differ"),
        (lambda p: write_folder(p, "qwen3"), "holds no tokenizer"),
        (
            lambda p: (write_tokenizer(write_folder(p, "qwen3")) / "tokenizer_config.json").write_text("{}"),
            "is the mask",
        ),
        (lambda p: write_tokenizer(write_folder(p, "esm")), "the tokenizer of"),
        (lambda p: (write_folder(p, "qwen3") / "model.safetensors").unlink(), "has no model.safetensors"),
    ]
    for i, (make, said) in enumerate(cases):
        path = tmp_path / str(i)
        make(path)
        with pytest.raises(gj.Refused, match=re.escape(said)):
            gj.load(path)
    wrong = gj.load(folder)
    with pytest.raises(gj.Refused, match="a text needs a prompt"):
        wrong.conditions(["a"], 0)
    with pytest.raises(gj.Refused, match="exceed 65,536"):
        wrong.conditions(["a" * 70_000], 10)
    cond, levels = wrong.conditions(["a"], 16), wrong.levels(16)
    sevens = wrong.kernel(wrong.in_blocks(7, 16, causal=True))
    with pytest.raises(gj.Refused, match="blocks of 7 tokens do not divide"):
        gj.generate(gj.keys(0, 1), sevens, levels, (32,), cond)
    ruled = wrong.kernel(AutomatonGuidance(wrong.model, Automaton.from_pattern("a*", "abc")))
    with pytest.raises(gj.Refused, match="the automaton has 3 tokens, the model 99"):
        gj.generate(gj.keys(0, 1), ruled, levels, (32,), cond)
    assert set(KINDS) <= set(FAMILIES)


@pytest.mark.slow
def test_a_protein_model_reads_letters(tmp_path):
    path = write_folder(tmp_path, "esm")
    words = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]
    (path / "vocab.txt").write_text("\n".join(words))
    (path / "special_tokens_map.json").write_text(json.dumps({"cls_token": "<cls>", "eos_token": "<eos>"}))
    model = gj.load(path)
    cond = model.conditions(["MK<mask>T"] * 2, 6)
    assert (cond["known"][0][-1], (cond["known"] == -1).sum()) == (2, 14)
    rule = model.rule("[AC]+", 6, cond["known"].shape[1])
    x = gj.generate(gj.keys(0, 2), model.kernel(solver=PlannedUnmasking(within=rule)), model.levels(3), (23,), cond)
    assert all(set(words[t] for t in row[-7:-1]) <= {"A", "C", "<eos>"} for row in np.asarray(x).tolist())
