"""Guidance in hidden states and embeddings, edits of sequences, and the black boxes they are tried on."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import guidance_jax as gj
from benchmarks.ehrlich_function import Ehrlich
from guidance_jax.core import kl_divergence as divergence
from guidance_jax.discrete import NOS, HiddenNetwork, LaMBO
from guidance_jax.embeddings import DiffusionLM, EmbeddingNetwork, Rounded
from guidance_jax.embeddings.network import nearest
from tests.token_table import DIRECTION, EMBEDDED, FLOW, HIDDEN, LENGTH, TABLE, along, near

LEVEL = FLOW(jnp.float32(0.6))
X = jnp.array([3, 1, 3])


def predicted(model, x=X, key=0, label=1):
    return model(x, LEVEL, label, model.init(x), jax.random.key(key))[0]


@pytest.mark.release
def test_nos_raises_the_value_and_the_kl_holds_it_back():
    """The value after the move, and its KL to the model: both rise with the rate, the KL falls with its weight."""
    h = HIDDEN.hidden(X, LEVEL, 1)
    values, kls = [], []
    for rate, kl, steps in ((0.02, 0.01, 10), (0.2, 0.01, 10), (0.02, 50.0, 100)):
        guided = NOS(HIDDEN, along, 1.0, rate, kl, adagrad=False, steps=steps)
        moved = guided.climb(h, 1.0, X, LEVEL, 1, jax.random.key(0))
        values.append(float(along(moved, LEVEL, 1) - along(h, LEVEL, 1)))
        base, new = predicted(HIDDEN).log_p, predicted(guided).log_p
        kls.append(float(divergence(base, new, X == 3)))
    assert 0 < values[0] < values[1]
    assert kls[0] < kls[1]
    assert kls[2] < 0.5 * kls[1]


@pytest.mark.release
def test_nos_decodes_what_it_optimised_and_moves_only_free_positions():
    guided = NOS(HIDDEN, along, 1.0, rate=0.3)
    h = HIDDEN.hidden(X, LEVEL, 1)
    moved = guided.climb(h, 1.0, X, LEVEL, 1, jax.random.key(0))
    np.testing.assert_array_equal(moved[1], h[1])
    assert np.abs(moved[0] - h[0]).max() > 0.01
    np.testing.assert_allclose(
        predicted(guided).log_p, jax.nn.log_softmax(HIDDEN.logits_of(moved, LEVEL, 1)), atol=1e-6
    )


@pytest.mark.usefixtures("x64")
def test_one_step_of_nos_by_finite_differences():
    """delta = rate g, g of value - kl KL by central differences in float64."""
    model = jax.tree.map(lambda a: a.astype(jnp.float64), HIDDEN)
    level, kl, rate, scale = FLOW(jnp.float64(0.6)), 0.7, 0.05, 1.4
    h = np.asarray(model.hidden(X, level, 1))
    base = np.asarray(jax.nn.log_softmax(model.logits_of(jnp.asarray(h), level, 1)))

    def objective(h):
        new = np.asarray(jax.nn.log_softmax(model.logits_of(jnp.asarray(h), level, 1)))
        return scale * np.mean(h @ np.asarray(DIRECTION)) - kl * np.sum((np.exp(base) * (base - new))[[0, 2]])

    g = np.zeros_like(h)
    for i, j in itertools.product([0, 2], range(h.shape[1])):
        up, down = h.copy(), h.copy()
        up[i, j] += 1e-5
        down[i, j] -= 1e-5
        g[i, j] = (objective(up) - objective(down)) / 2e-5
    guided = NOS(model, along, scale, rate, kl, steps=1, adagrad=False)
    np.testing.assert_allclose(
        guided.climb(jnp.asarray(h), scale, X, level, 1, jax.random.key(0)), h + rate * g, atol=1e-6
    )


@pytest.mark.release
def test_langevin_noise_samples_the_tilted_hidden_states():
    """Without a KL and with a quadratic value, the noise is that of exp(value): variance 1 / 4."""

    def bowl(h, level, cond):
        return -2.0 * jnp.sum((h - 1.0) ** 2)

    guided = NOS(HIDDEN, bowl, 1.0, rate=0.02, kl=0.0, noise=1.0, steps=400, adagrad=False)
    h = HIDDEN.hidden(X, LEVEL, 1)
    run = jax.jit(jax.vmap(lambda key: guided.climb(h, 1.0, X, LEVEL, 1, key)))
    found = np.asarray(run(jax.random.split(jax.random.key(0), 300)))[:, [0, 2]]
    np.testing.assert_allclose(found.mean(), 1.0, atol=0.03)
    np.testing.assert_allclose(found.var(), 0.25, rtol=0.1)


EHRLICH = Ehrlich.random(0, vocabulary=12, length=12, motifs=2, size=4)


@pytest.mark.release
def test_ehrlich_functions_are_one_at_the_optimum_and_never_more():
    best = jnp.asarray(EHRLICH.optimum())
    assert float(EHRLICH(best)) == 1.0
    starts = EHRLICH.start(jax.random.key(0), 2000)
    values = np.asarray(jax.vmap(EHRLICH)(starts))
    assert np.isfinite(values).all()
    assert (values <= 1).all()
    assert set(np.round(np.unique(values) * 16, 4)) <= set(map(float, range(17)))


def test_ehrlich_by_hand():
    """Two motifs of two, spacings 1 and 2: shares counted by a plain loop over all sequences of four."""
    allowed = np.ones((3, 3), bool)
    allowed[0, 2] = False
    f = Ehrlich(jnp.asarray(allowed), jnp.array([[0, 1], [2, 1]]), jnp.array([[0, 1], [0, 2]]), 4, 2)
    for x in itertools.product(range(3), repeat=4):
        want = 1.0
        for motif, spacing in (((0, 1), (0, 1)), ((2, 1), (0, 2))):
            want *= max(
                sum(x[at + s] == m for m, s in zip(motif, spacing, strict=True)) / 2 for at in range(4 - spacing[-1])
            )
        if (0, 2) in itertools.pairwise(x):
            want = -np.inf
        assert float(f(jnp.array(x))) == want, x


def counted(x):
    """How many tokens are 2; feasible sequences do not start with 1."""
    return jnp.sum(x == 2).astype(float)


def begins_well(x):
    return x[0] != 1


def undefined(x):
    return jnp.where(x[1] == 2, jnp.nan, counted(x))


def edited(kernel, x, steps=6, n=40):
    starts = jnp.tile(jnp.asarray(x, jnp.int32), (n, 1))
    run = jax.jit(jax.vmap(lambda key, x: gj.sample(key, kernel, FLOW.levels(steps, start=0.6), x, 1)))
    return run(gj.keys(0, n), starts)


@pytest.mark.release
def test_lambo_never_gets_worse_and_keeps_to_what_is_allowed():
    guide = NOS(HIDDEN, along, 1.0)
    kernel = LaMBO(guide, counted, begins_well, known=jnp.array([-1, -1, 0]), temperature=1.0)
    out = edited(kernel, [0, 2, 0])
    x = np.asarray(out.x)
    assert (x[:, 2] == 0).all()
    assert (x[:, 0] != 1).all()
    assert ((x == 2).sum(1) >= 1).all()
    assert ((x == 2).sum(1) == 2).mean() > 0.5
    np.testing.assert_array_equal(out.score, (x == 2).sum(1))


@pytest.mark.release
def test_lambo_drops_and_counts_objectives_that_are_no_numbers():
    kernel = LaMBO(NOS(HIDDEN, along, 1.0), undefined, temperature=1.0)
    out = edited(kernel, [0, 0, 0])
    assert (np.asarray(out.x)[:, 1] != 2).all()
    assert np.asarray(out.dropped).sum() > 0
    assert np.isfinite(out.score).all()


def test_lambo_edits_where_it_matters():
    """A value that looks at one position alone: at low temperature no other is edited."""

    def first(h, level, cond):
        return jnp.sum(h[0])

    network = HiddenNetwork(
        jax.random.normal(jax.random.key(0), (4, 3)),
        lambda w, x, t, y: w[x] if jnp.issubdtype(x.dtype, jnp.integer) else x @ w,
        lambda w, h, t, y: h,
        gj.Absorbing(3),
    )
    kernel = LaMBO(NOS(network, first, 1.0), temperature=1e-3)
    x = jnp.array([1, 0, 2])
    clean = FLOW(jnp.float32(0.0))
    for seed in range(5):
        where = kernel.positions(x, FLOW(jnp.float32(0.3)), clean, 1, jax.random.key(seed))
        assert where.tolist() == [True, False, False]


def test_score_interpolation_is_the_posterior_mean():
    """Exact p(v | x_t) of one position gives the exact denoiser: the mixture of Gaussians with its point masses."""
    weights = jnp.array([0.5, 0.3, 0.2])
    schedule = gj.Cosine()

    def posterior(params, x, t, cond, previous):
        level = schedule(t)
        return jnp.log(weights) - jnp.sum((x[:, None] - level.alpha * TABLE) ** 2, -1) / (2 * level.sigma**2)

    model = EmbeddingNetwork((), TABLE, posterior)
    exact = gj.GaussianMixture(TABLE, 1e-4, weights)
    x, level = jnp.array([[0.3, -0.2], [1.0, 0.4], [-0.5, 0.1]]), schedule(jnp.float32(0.6))
    got = model(x, level, None, model.init(x), None)[0].x0
    for i in range(3):
        np.testing.assert_allclose(got[i], exact(x[i], level, None, (), None)[0].x0, atol=1e-4)


def test_self_conditioning_is_the_estimate_of_the_step_before():
    x = jax.random.normal(jax.random.key(0), (LENGTH, 2))
    level = gj.Cosine()(jnp.float32(0.5))
    first, state = EMBEDDED(x, level, 1, EMBEDDED.init(x), None)
    np.testing.assert_array_equal(state, first.x0)
    second, _ = EMBEDDED(x, level, 1, state, None)
    assert np.abs(second.x0 - first.x0).max() > 1e-3


def test_rounding_moves_to_the_nearest_word():
    x = jax.random.normal(jax.random.key(0), (LENGTH, 2))
    level = gj.Cosine()(jnp.float32(0.5))
    model = Rounded(EMBEDDED, TABLE)
    pred, _ = model(x, level, 1, model.init(x), None)
    brute = [int(np.argmin([np.sum((np.asarray(row) - np.asarray(word)) ** 2) for word in TABLE])) for row in pred.x0]
    np.testing.assert_allclose(pred.x0, TABLE[jnp.array(brute)], atol=1e-6)
    np.testing.assert_array_equal(nearest(pred.x0, TABLE), brute)
    np.testing.assert_allclose(level.noise(pred.x0, pred.eps), x, atol=1e-5)


def test_diffusion_lm_steps_raise_the_classifier():
    """One transition, the same draw: nearer to the wanted word; fluency holds it back; scale 0 changes nothing."""
    t, s = (gj.Cosine()(jnp.float32(v)) for v in (0.6, 0.5))
    x = jax.random.normal(jax.random.key(0), (LENGTH, 2))

    def run(scale, fluency=0.01):
        kernel = DiffusionLM(EMBEDDED, gj.DDIM(1.0), near, scale, fluency, rate=0.05)
        return kernel(kernel.init(x), t, s, 2, jax.random.key(1)).x

    score = [float(near(run(w, fluency), s, 2)) for w, fluency in ((0.0, 0.0), (1.0, 10.0), (1.0, 0.0))]
    assert score[0] < score[1] < score[2]
    pred, _ = EMBEDDED(x, t, 2, EMBEDDED.init(x), None)
    q = gj.DDIM(1.0).transition(pred, t, s)
    noise = jax.random.normal(jax.random.split(jax.random.key(1))[1], x.shape)
    np.testing.assert_allclose(run(0.0), q.mean + q.std * noise, atol=1e-6)
