"""Language models: the cache, exact conditioning on an exact model, one step of each method by hand, GPT-2's own
numbers."""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import guidance_jax as gj
from guidance_jax.core import kl_divergence as divergence
from guidance_jax.discrete import Forbid
from guidance_jax.oracles import monte_carlo_floor as floor
from guidance_jax.text import FUDGE, PPLM, Contrastive, LanguageModel, LeftToRight
from guidance_jax.text.language_model import after
from guidance_jax.zoo.gpt2.reader import gpt2_params, load_gpt2
from guidance_jax.zoo.sequence_models import language_model, prefix_classifier
from guidance_jax.zoo.transformer import GPT2
from tests.thresholds import most_total_variation
from tests.token_table import GPT, MARKOV, TEXT_LEVELS, another, likes, shaken

GOLDEN = Path(__file__).parent.parent / "golden" / "gpt2"
T, N = 6, 100_000
ROWS, PROBABILITY, HAS = MARKOV.sequences()


def total_variation(x, target, log_w=None):
    """Half the L1 distance between weighted samples and `target` over all sequences."""
    code = 3 ** np.arange(T)
    w = np.ones(len(x)) if log_w is None else np.exp(log_w - log_w.max())
    count = np.bincount(np.asarray(x) @ code, w, 3**T) / w.sum()
    return 0.5 * np.abs(count[ROWS @ code] - target).sum()


def text(kernel, label=1, n=N):
    return gj.generate(gj.keys(0, n), kernel, TEXT_LEVELS, (T,), jnp.full(n, label))


def plain(model, **options):
    return gj.Reverse(model, gj.Ancestral(**options))


@pytest.mark.release
def test_the_chain_is_the_enumerated_one():
    assert total_variation(text(plain(MARKOV)), PROBABILITY) <= most_total_variation(PROBABILITY, N)


@pytest.mark.parametrize("label", [1, 0])
def test_fudge_with_the_exact_future_is_the_conditional_language_model(label, measured):
    target = PROBABILITY * (label == HAS)
    target = target / target.sum()
    x = text(plain(FUDGE(MARKOV, MARKOV.future, 1.0, top=None)), label)
    distance = total_variation(x, target)
    measured("total variation", distance)
    measured("floor", floor(target, N))
    assert distance <= most_total_variation(target, N)


@pytest.mark.release
def test_fudge_with_all_candidates_among_the_top_is_the_same():
    cut, whole = (text(plain(FUDGE(MARKOV, MARKOV.future, 1.0, top=k)), n=500) for k in (3, None))
    np.testing.assert_array_equal(cut, whole)
    greedy = text(plain(FUDGE(MARKOV, MARKOV.future, 0.0, top=1)), n=5)
    x = np.zeros(T, int)
    for i in range(1, T):
        x[i] = int(np.argmax(MARKOV.transition[x[i - 1]]))
    np.testing.assert_array_equal(greedy, np.tile(x, (5, 1)))


@pytest.mark.release
def test_twisted_particles_on_text_reach_the_conditional():
    target = PROBABILITY * HAS / (PROBABILITY * HAS).sum()
    move = gj.Twisted(MARKOV, gj.Ancestral(), MARKOV.future, noisy=True)
    found = gj.populations(gj.keys(0, 20), gj.SMC(move), TEXT_LEVELS, (T,), 10_000, jnp.ones(20, int))
    log_w = np.asarray(found.log_w + found.log_evidence[:, None]).ravel()
    distance = total_variation(np.asarray(found.x).reshape(-1, T), target, log_w)
    assert distance <= most_total_variation(target, N)
    np.testing.assert_allclose(np.exp(found.log_evidence).mean(), (PROBABILITY * HAS).sum(), atol=3e-3)


@pytest.mark.release
def test_prompts_are_conditioning():
    x = np.asarray(text(gj.Infill(plain(MARKOV), jnp.array([0, 2, 1, -1, -1, -1])), n=20_000))
    assert (x[:, :3] == [0, 2, 1]).all()
    target = PROBABILITY * (ROWS[:, :3] == [0, 2, 1]).all(1)
    target = target / target.sum()
    assert total_variation(x, target) <= most_total_variation(target, 20_000)


def test_chances_against_enumeration():
    chances = np.asarray(MARKOV.chances())
    np.testing.assert_allclose(chances[0, 0, 0], (PROBABILITY * HAS).sum(), atol=1e-6)
    chosen = (ROWS[:, :3] == [0, 1, 2]).all(1)
    np.testing.assert_allclose(
        chances[2, 2, 1], (PROBABILITY * HAS)[chosen].sum() / PROBABILITY[chosen].sum(), atol=1e-6
    )


@pytest.mark.release
def test_cfg_on_logits_is_the_formula():
    """(1 - scale) log p_u + scale log p_c, normalised, in float64 by hand."""
    x, level = jnp.array([0, 2, 1, 1, 0, 0]), TEXT_LEVELS.at(0)
    model = gj.CFG(GPT, 3, 2.5)
    got = model(x, level, jnp.int32(1), model.init(x), None)[0].log_p
    c, u = (np.asarray(GPT(x, level, y, GPT.init(x), None)[0].log_p, np.float64) for y in (1, 3))
    p = np.exp(u) * (np.exp(c) / np.exp(u)) ** 2.5
    np.testing.assert_allclose(got, np.log(p / p.sum()), atol=1e-5)


@pytest.mark.slow
def test_contrastive_decoding_keeps_to_plausible_tokens():
    x, level = jnp.array([0, 2, 1, 1, 0, 0]), TEXT_LEVELS.at(0)
    model = Contrastive(GPT, gj.Conditioned(GPT, another), 8.0, plausible=0.7)
    p = np.exp(model(x, level, jnp.int32(1), model.init(x), None)[0].log_p)
    own = np.exp(GPT(x, level, 1, GPT.init(x), None)[0].log_p)
    assert (p[own < 0.7 * own.max()] == 0).all()
    np.testing.assert_allclose(p.sum(), 1, atol=1e-6)


def remembered(x, upto):
    """The cache after the tokens before position `upto`."""
    state = GPT.init(x)
    for i in range(upto):
        _, state = GPT(x, TEXT_LEVELS.at(i), 2, state, None)
    return state


@pytest.mark.release
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("ahead", [False, True])
def test_one_step_of_pplm_is_a_gradient_step_by_finite_differences(ahead):
    """Steps of size rate against g / |g| per layer, g by central differences in float64, no autodiff."""
    model = jax.tree.map(lambda a: a.astype(jnp.float64), GPT)
    x, at, label = jnp.array([0, 2, 1, 1, 0, 0]), 3, 2
    level = gj.Level(*(a.astype(jnp.float64).at[at].get() for a in TEXT_LEVELS))
    state = jax.tree.map(lambda a: a.astype(jnp.float64), remembered(x, at))
    scale, rate, kl, fusion = 1.3, 0.2, 0.4, 0.8
    base = np.asarray(model(x, level, label, state, None)[0].log_p)

    def objective(cache):
        pred, memory = model(x, level, label, state._replace(cache=jnp.asarray(cache)), None)
        p = np.asarray(pred.log_p)
        if ahead:  # the network reads the expectation of the next token's embedding
            _, hidden, _ = model.apply(model.params, jnp.exp(pred.log_p), at + 1, memory.cache, label)
            memory = memory._replace(hidden=memory.hidden + hidden, count=memory.count + 1)
        return scale * float(likes(pred.log_p, memory.mean, label)) - kl * np.sum(np.exp(p) * (p - base))

    cache, g = np.asarray(state.cache), np.zeros(state.cache.shape)
    for index in itertools.product(*(range(n) for n in cache.shape)):
        if index[2] < at:  # the window is everything before the present position
            up, down = cache.copy(), cache.copy()
            up[index] += 1e-5
            down[index] -= 1e-5
            g[index] = (objective(up) - objective(down)) / 2e-5
    # the norm is of one layer's keys and values together
    step = np.stack([rate * layer / np.linalg.norm(layer) for layer in g])
    steered = np.asarray(model(x, level, label, state._replace(cache=jnp.asarray(cache + step)), None)[0].log_p)
    p = np.exp(fusion * steered + (1 - fusion) * base)
    guided = PPLM(model, likes, scale, rate, kl, fusion, steps=1, ahead=ahead)
    got, new = guided(x, level, label, state, None)
    np.testing.assert_allclose(np.exp(got.log_p), p / p.sum(), atol=1e-7)
    np.testing.assert_array_equal(
        new.cache, model(x, level, label, state, None)[1].cache
    )  # the model's own cache goes on


def test_one_step_of_fudge_is_bayes_rule_by_hand():
    """log p(x') + 2 log p(a | prefix, x') in float64, the future by enumeration."""
    x = jnp.array([0, 2, 1, 0, 0, 0])
    model = FUDGE(MARKOV, MARKOV.future, 2.0, top=None)
    state = model.init(x)
    for i in range(3):
        pred, state = model(x, TEXT_LEVELS.at(i), 1, state, None)
    p = np.asarray(MARKOV.transition, np.float64)[1]
    for v in range(3):
        chosen = (ROWS[:, :4] == [0, 2, 1, v]).all(1)
        p[v] *= ((PROBABILITY * HAS)[chosen].sum() / PROBABILITY[chosen].sum()) ** 2
    np.testing.assert_allclose(np.exp(pred.log_p), p / p.sum(), atol=1e-6)


@pytest.mark.release
def test_pplm_raises_the_attribute_at_a_bounded_divergence():
    """More steps, more of the attribute; the KL to the model is what the weight allows."""
    x, level = jnp.array([0, 2, 1, 1, 0, 0]), TEXT_LEVELS.at(3)
    state = remembered(x, 3)
    base = GPT(x, level, 2, state, None)[0].log_p

    def moved(rate, kl):
        log_p = PPLM(GPT, likes, 1.0, rate, kl, fusion=1.0, steps=10)(x, level, 2, state, None)[0].log_p
        return float(log_p[1] - base[1]), float(divergence(log_p, base))

    found = [moved(rate, 0.01) for rate in (0.0, 0.05, 0.2)]
    assert found[0] == pytest.approx((0, 0), abs=1e-6)
    assert found[0][0] < found[1][0] < found[2][0]
    assert moved(0.2, 10.0)[1] < 0.2 * found[2][1]


def test_the_expected_token_of_a_sure_prediction_is_that_token():
    """Ahead of a one-hot prediction, PPLM reads what the model reads once the token is written; at the end, nothing."""
    x, level, state = jnp.array([0, 2, 1, 1, 0, 0]), TEXT_LEVELS.at(3), remembered(jnp.array([0, 2, 1, 1, 0, 0]), 4)
    sure = jnp.log(jax.nn.one_hot(2, 3))
    ahead = after(GPT, x, sure, level, 2, state, None)
    written = GPT(x.at[4].set(2), TEXT_LEVELS.at(4), 2, state, None)[1]
    for got, expected in zip(ahead, written, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-6)
    last = after(GPT, x, sure, TEXT_LEVELS.at(5), 2, state, None)
    np.testing.assert_array_equal(last.hidden, state.hidden)


@pytest.mark.release
def test_looking_ahead_samples():
    """Through the wrappers that models wear, to the last token; it is not what PPLM does without."""
    model = Forbid(gj.Unconditional(GPT, 3), jnp.array([True, False, False]))
    found = [text(plain(PPLM(model, likes, rate=0.5, ahead=ahead)), n=200) for ahead in (True, False)]
    assert np.all(found[0][:, 1:] > 0)
    assert np.any(found[0] != found[1])


def test_a_network_that_cannot_read_probabilities_is_refused():
    def apply(params, token, position, cache, cond):
        return params[token], params[token, :2], cache

    model = LanguageModel(jnp.eye(3), apply, lambda n: (jnp.zeros((n, 2)), jnp.zeros(2)), LeftToRight(3))
    with pytest.raises(gj.Refused, match="remove ahead"):
        text(plain(PPLM(model, likes, ahead=True)), n=2)


def test_the_window_of_pplm_is_the_most_recent():
    """With a window of one, only the position before the present one moves."""
    x, level = jnp.array([0, 2, 1, 1, 0, 0]), TEXT_LEVELS.at(3)
    guided = PPLM(GPT, likes, window=1)
    g = guided.bound(jnp.ones(GPT.init(x).cache.shape[1:]), level)
    assert np.unique(np.nonzero(np.asarray(g))[1]).tolist() == [2]


@pytest.mark.release
def test_the_cache_is_the_whole_sequence():
    """Token by token = all at once, for the language model and for the prefix classifier."""
    network, x = GPT.apply.module, jnp.array([0, 2, 1, 1, 0, 2])
    whole = jax.nn.log_softmax(network.apply(GPT.params, x, jnp.int32(1))[0])
    state, rows = GPT.init(x), []
    for i in range(T):
        pred, state = GPT(x, TEXT_LEVELS.at(i), 1, state, None)
        rows.append(pred.log_p)
    np.testing.assert_allclose(jnp.stack(rows), whole, atol=1e-5)
    np.testing.assert_allclose(state.mean, jnp.mean(network.apply(GPT.params, x, jnp.int32(1))[1], 0), atol=1e-5)

    heads = GPT2(3, T, width=8, depth=1, heads=2, outputs=2)
    classifier = prefix_classifier(heads, shaken(heads.init(jax.random.key(0), x), jax.random.key(1)))
    state = classifier.init(x)
    for i in range(T):
        log_p, state = classifier.read(x[i], i, state, 1)
        np.testing.assert_allclose(log_p, classifier.log_prob(x, TEXT_LEVELS.at(i), 1), atol=1e-5)


@pytest.mark.slow
def test_gpt2_has_the_numbers_of_transformers():
    """A random GPT-2 written by `transformers` 5.23 (torch 2.13): logits and hidden states in float32."""
    with np.load(GOLDEN / "logits.npz") as file:
        tokens, logits, hidden = file["tokens"], file["logits"], file["hidden"]
    model = load_gpt2(GOLDEN)
    got, states = model.apply.module.apply(model.params, jnp.asarray(tokens, jnp.int32))
    np.testing.assert_allclose(got, logits, atol=2e-6)
    np.testing.assert_allclose(states, hidden, atol=2e-6)
    x, levels = jnp.asarray(tokens, jnp.int32), gj.positions(len(tokens))
    state = model.init(x)
    for i in range(len(x)):
        pred, state = model(x, levels.at(i), None, state, None)
        np.testing.assert_allclose(pred.log_p, jax.nn.log_softmax(logits[i]), atol=5e-6)


def test_gpt2_refusals(tmp_path):
    model = load_gpt2(GOLDEN)
    network = model.apply.module
    with pytest.raises(ValueError, match=r"no config\.json"):
        load_gpt2(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="'llama' model, expected gpt2"):
        load_gpt2(tmp_path)
    from safetensors.numpy import load_file

    tensors = load_file(GOLDEN / "model.safetensors")
    name = "transformer.h.0.mlp.c_fc.weight"
    with pytest.raises(ValueError, match=r"h.0.mlp.c_fc.weight has shape \(16, 63\), expected \(16, 64\)"):
        gpt2_params(tensors | {name: tensors[name][:, 1:]}, network)
    with pytest.raises(ValueError, match=r"no tensor ln_f\.weight"):
        gpt2_params({k: v for k, v in tensors.items() if "ln_f.weight" not in k}, network)
    with pytest.raises(ValueError, match="GPT-2 does not have: extra"):
        gpt2_params(tensors | {"extra": tensors[name]}, network)


def test_a_prompt_longer_than_the_cache_is_refused():
    with pytest.raises(ValueError, match=r"known tokens have shape \(8,\), the sample \(6,\)"):
        text(gj.Infill(plain(GPT), jnp.zeros(8, int)), n=2)
    with pytest.raises(ValueError, match="hold 6 tokens, got sequences of 9"):
        gj.generate(gj.keys(0, 2), plain(GPT), gj.positions(9), (9,), jnp.ones(2, int))
    with pytest.raises(ValueError, match=r"write positions\(5\)"):
        gj.generate(gj.keys(0, 2), plain(GPT), TEXT_LEVELS, (5,), jnp.ones(2, int))


@pytest.mark.release
def test_one_compile_for_prompts_temperatures_and_cut_offs():
    network = GPT2(5, 8, width=8, depth=1, heads=2)
    model = language_model(network, network.init(jax.random.key(0), jnp.zeros(8, int)))
    from guidance_jax.sample import _generate

    def run(temperature, k, p, prompt):
        kernel = gj.Infill(plain(model, temperature=temperature, top_k=k, top_p=p), jnp.asarray(prompt))
        return gj.generate(gj.keys(0, 4), kernel, gj.positions(8), (8,))

    run(0.8, 3, 0.9, [0, 1, *[-1] * 6])
    before = _generate._cache_size()
    run(1.2, 2, 0.5, [0, 4, 2, *[-1] * 5])
    assert _generate._cache_size() == before
