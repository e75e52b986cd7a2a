"""Search among children: with the exact value and many children it samples the tilted distribution."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import guidance_jax as gj
from guidance_jax.discrete import FirstHitting
from guidance_jax.kernels import SVDD
from guidance_jax.oracles import monte_carlo_floor as floor
from guidance_jax.oracles.energy import energy_distance
from guidance_jax.search import climb, trees, walk
from tests.table import MIXTURE, SCHEDULE, UNCONDITIONAL, log_clean, log_posterior
from tests.token_table import FLOW, LENGTH, MASKED, log_masked, unconditional

N, LABEL = 20_000, 1


def masks(children, scale=1.0):
    kernel = SVDD(unconditional(MASKED), gj.Ancestral(), log_masked, scale, children, noisy=True)
    return gj.generate(gj.keys(0, N), kernel, FLOW.levels(80), (LENGTH,), jnp.full(N, LABEL))


@pytest.mark.release
def test_many_children_with_the_exact_value_sample_the_posterior(measured):
    """Masks, the exact p(y | x_t) for value: total variation falls with the children, to the floor."""
    target = MASKED.target(LABEL)
    found = {m: MASKED.total_variation(masks(m), target) for m in (2, 4, 32)}
    alone = MASKED.total_variation(masks(2, 0.0), target)
    for what, value in {**found, "no search": alone, "floor": floor(target, N)}.items():
        measured(what, value)
    assert found[2] > found[4] > found[32]
    assert found[32] < 2 * floor(target, N)
    assert found[2] < 0.7 * alone


@pytest.mark.release
def test_in_the_plane_the_exact_value_beats_the_reward_of_the_clean_estimate(measured):
    """Energy distance to p(x | y): the noisy classifier with 16 children is nearer than r(E[x_0 | x_s])."""
    n, levels = 4000, gj.schedules.log_snr_uniform(SCHEDULE, 40, lo=0.02)
    exact = np.asarray(MIXTURE.sample(gj.keys(5, 1)[0], n, LABEL))

    def distance(**options):
        kernel = SVDD(UNCONDITIONAL, gj.DDIM(1.0), children=16, **options)
        x = gj.generate(gj.keys(1, n), kernel, levels, (2,), jnp.full(n, LABEL))
        return float(energy_distance(exact, x))

    found = {
        "noisy classifier": distance(reward=log_posterior, noisy=True),
        "clean estimate": distance(reward=log_clean),
        "no search": distance(reward=log_clean, scale=0.0),
    }
    for what, value in found.items():
        measured(what, value)
    assert found["noisy classifier"] < found["clean estimate"] < found["no search"]


def ring(x, level, cond):
    """A reward with its best, 0, on a circle."""
    return -jnp.abs(jnp.linalg.norm(x) - 3.0)


def searched(width, n=8, runs=400):
    """The best particle's reward in each run, and the particles, by beam search of the width or, None, best-of-n."""
    levels = gj.schedules.log_snr_uniform(SCHEDULE, 12, lo=0.02)
    how = {"threshold": 0.0} if width is None else {"resample": gj.resampling.Beam(width), "threshold": 1.0}
    found = gj.populations(
        gj.keys(0, runs), gj.SMC(gj.Steered(UNCONDITIONAL, gj.DDIM(1.0), ring, 1.0), **how), levels, (2,), n,
        jnp.zeros(runs, int),
    )  # fmt: skip
    return np.asarray(jax.vmap(lambda x: ring(x, None, None))(found.best())), found


@pytest.mark.release
def test_beam_search_finds_more_than_best_of_n_and_claims_no_evidence(measured):
    """A beam as wide as the population only sorts it, so it is best-of-n; narrower ones find better at equal calls."""
    alone, all_kept = searched(None), searched(8)
    beam = {width: searched(width)[0].mean() for width in (1, 2, 4)}
    for what, value in {**beam, "best of 8": alone[0].mean()}.items():
        measured(what, value)
    assert abs(all_kept[0].mean() - alone[0].mean()) < 4 * alone[0].std() / 20
    assert min(beam.values()) > 0.5 * alone[0].mean()
    kept = all_kept[1]
    assert np.isnan(kept.log_evidence).all()
    assert np.isfinite(alone[1].log_evidence).all()
    # the weights that are kept are those of the rewards found
    rewards = np.asarray(jax.vmap(jax.vmap(lambda x: ring(x, None, None)))(kept.x[:3]))
    np.testing.assert_allclose(kept.log_w[:3] - kept.log_w[:3, :1], rewards - rewards[:, :1], atol=1e-4)
    with pytest.raises(gj.Refused, match="a beam must keep 1 to 8 particles, got 9"):
        searched(9)


def test_a_search_without_children_is_refused():
    kernel = SVDD(UNCONDITIONAL, gj.DDIM(), log_clean)
    with pytest.raises(gj.Refused, match="proportion to the solver's variance"):
        gj.generate(gj.keys(0, 2), kernel, SCHEDULE.levels(3), (2,), jnp.zeros(2, int))


RUNS = 4000  # trees


def grown(n, growth, scale=1.0, reward=MASKED.log_likelihood):
    """Trees of n rollouts of a chain that samples the masks' model exactly, a token a step."""
    move = gj.BestOf(gj.Reverse(unconditional(MASKED), FirstHitting()), reward, scale)
    return trees(gj.keys(0, RUNS), move, FLOW.levels(LENGTH), (LENGTH,), n, jnp.full(RUNS, LABEL), growth=growth)


def drawn(found, seed=1):
    return found.draw(jax.random.key(seed))


@pytest.mark.release
def test_a_tree_that_always_branches_at_its_root_is_importance_sampling():
    """Weights are those of the rewards, and the evidence is unbiased: p(y) by enumeration."""
    found = grown(4, 1.0)
    rewards = jax.vmap(jax.vmap(lambda x: MASKED.log_likelihood(x, None, LABEL)))(found.x[:50])
    expected = jax.nn.softmax(rewards) * 4
    np.testing.assert_allclose(jnp.exp(found.log_w[:50]), expected, atol=1e-4)
    evidence = np.exp(np.asarray(found.log_evidence))
    z = (evidence.mean() - np.sum(MASKED.p.ravel() * MASKED.classes[:, LABEL])) / evidence.std() * RUNS**0.5
    assert abs(z) < 4


@pytest.mark.release
@pytest.mark.parametrize("growth", [0.2, 0.8])
def test_a_tree_without_reward_draws_from_the_model(growth):
    """Of any shape: a path down, each child as likely as its siblings, is a chain; the evidence is one."""
    found = grown(12, growth, 0.0)
    np.testing.assert_allclose(found.log_evidence, 0.0, atol=1e-5)
    model = MASKED.target()
    assert MASKED.total_variation(drawn(found), model) < 2 * floor(model, RUNS)


@functools.cache
def branching():
    """Trees of 2, 8 and 32 rollouts: (their total variations to the posterior, log evidences less the exact one)."""
    exact = np.log(np.sum(MASKED.p.ravel() * MASKED.classes[:, LABEL]))
    found = {n: grown(n, 0.8) for n in (2, 8, 32)}
    near = {n: MASKED.total_variation(drawn(f), MASKED.target(LABEL)) for n, f in found.items()}
    return near, {n: float(jax.nn.logsumexp(f.log_evidence) - np.log(RUNS) - exact) for n, f in found.items()}


@pytest.mark.release
def test_trees_come_near_the_posterior_and_their_evidence_is_low(measured):
    """Total variation falls with the rollouts, and stays above that of importance sampling: no branch that began badly
    is looked at again soon, so that values are too low.
    """
    (near, low), target = branching(), MASKED.target(LABEL)
    apart = MASKED.total_variation(drawn(grown(32, 1.0)), target)
    for n in near:
        measured(n, near[n])
        measured(f"evidence of {n}, less the exact", low[n])
    measured("importance sampling", apart)
    assert near[2] > near[8] > near[32] > apart


@pytest.mark.release
def test_known_defect_the_evidence_of_trees_is_too_low():
    """By 5 to 40 % at 32 rollouts. An unbiased estimate would be 1: whoever mends it turns this test around."""
    assert -0.5 < branching()[1][32] < -0.05


FLOWING = gj.schedules.log_snr_uniform(SCHEDULE, 15, lo=0.02)


def ending(reward, scale=1.0, model=UNCONDITIONAL):
    """The sampler without chance, and what it is asked for."""
    return gj.BestOf(gj.Reverse(model, gj.DPMSolver2M()), reward, scale)


@pytest.mark.release
def test_the_walk_over_starts_samples_the_posterior(measured):
    """Energy distance to p(x) p(y | x): no steps, some, and many, down to the floor of exact draws."""
    n = 4000
    labels, target = jnp.full(n, LABEL), [np.asarray(MIXTURE.sample(gj.keys(s, 1)[0], n, LABEL)) for s in (5, 6)]

    def distance(steps):
        move = ending(log_clean)
        found = walk(gj.keys(1, n), move, FLOWING, (2,), labels, steps=steps, size=0.5)
        assert found.value.shape == (n, steps + 1)
        x = gj.generate(gj.keys(1, n), move.kernel, FLOWING, (2,), labels, x=found.x)
        rewards = jax.vmap(lambda x: log_clean(x, None, LABEL))(x)
        np.testing.assert_allclose(found.value[:, -1], rewards, rtol=1e-3, atol=1e-2)
        return float(energy_distance(target[0], x))

    near, least = {steps: distance(steps) for steps in (1, 10, 100)}, float(energy_distance(*target))
    for what, value in {**near, "floor": least}.items():
        measured(what, value)
    assert near[1] > near[10] > near[100]
    assert near[100] < 3 * least + 5e-4


@pytest.mark.release
def test_a_walk_leaves_where_nothing_may_be():
    """A reward of -inf or nan on half of the plane: the walk goes on there until it is out, and stays out."""
    for never in (-jnp.inf, jnp.nan):
        move = ending(lambda x, level, cond, never=never: jnp.where(x[0] > 0, 0.0, never))
        labels = jnp.zeros(200, int)
        found = walk(gj.keys(7, 200), move, FLOWING, (2,), labels, steps=20, size=1.0)
        x = gj.generate(gj.keys(7, 200), move.kernel, FLOWING, (2,), labels, x=found.x)
        assert (x[:, 0] > 0).mean() > 0.99
        assert (found.value[:, 0] == -jnp.inf).any()


@pytest.mark.release
def test_a_walk_without_reward_leaves_the_noise_as_it_is():
    """Every proposal is accepted: the start is sqrt(1 - size^2)^steps of the first and fresh noise, N(0, sigma^2)."""
    n, size = 4000, 0.6
    move = ending(log_clean, 0.0)
    found = walk(gj.keys(2, n), move, FLOWING, (2,), jnp.zeros(n, int), steps=2, size=size)
    first = jax.vmap(lambda key: move.kernel.start(jax.random.split(key)[0], FLOWING, (2,)))(gj.keys(2, n))
    z, before = np.asarray(found.x) / FLOWING.sigma[0], np.asarray(first) / FLOWING.sigma[0]
    assert abs(z.std() - 1) < 4 / np.sqrt(4 * n)
    assert abs(np.mean(z * before) - (1 - size**2)) < 4 / np.sqrt(n)


@pytest.mark.release
def test_climbing_follows_the_exact_slope():
    """N(m, c^2): the flow is affine, G(z) = m + c z / s_0 + constant, so that a step towards a linear reward is known.

    s_0^2 = alpha^2 c^2 + sigma^2 at the first level, where data is not quite gone.
    """
    c, scale, rate = 0.5, 2.0, 0.3
    model = gj.oracles.Gaussian(jnp.array([1.0, -1.0]), c**2 * jnp.eye(2))
    levels, towards = gj.schedules.log_snr_uniform(SCHEDULE, 400, lo=1e-3), jnp.array([1.0, -2.0])
    move = ending(lambda x, level, cond: x @ towards, scale, model)
    found = {
        steps: climb(gj.keys(3, 4), move, levels, (2,), steps=steps, optimizer=optax.sgd(rate), prior=0.0)
        for steps in (1, 2)
    }
    slope = c / jnp.sqrt(levels.alpha[0] ** 2 * c**2 + levels.sigma[0] ** 2)
    np.testing.assert_allclose(found[2].x - found[1].x, jnp.tile(rate * scale * slope * towards, (4, 1)), rtol=2e-2)
    assert (np.diff(found[2].value, axis=1) > 0).all()


@pytest.mark.release
def test_the_prior_of_a_climb_keeps_the_length_of_noise():
    """Without reward the length goes to its mode, sigma sqrt(d - 1), and the direction stays."""
    shape, levels = (50,), gj.Cosine().levels(2)
    model = gj.oracles.Gaussian(jnp.zeros(shape), jnp.eye(*shape))
    move = ending(lambda x, level, cond: x.sum(), 0.0, model)
    found = climb(gj.keys(4, 3), move, levels, shape, steps=200, optimizer=optax.sgd(0.2))
    first = jax.vmap(lambda key: move.kernel.start(jax.random.split(key)[0], levels, shape))(gj.keys(4, 3))
    length, before = np.linalg.norm(found.x, axis=1), np.linalg.norm(first, axis=1)
    np.testing.assert_allclose(length, levels.sigma[0] * 7.0, rtol=1e-3)
    np.testing.assert_allclose(found.x / length[:, None], first / before[:, None], atol=1e-4)


def test_searches_refuse_what_they_cannot_search():
    tokens = gj.BestOf(gj.Reverse(unconditional(MASKED), FirstHitting()), MASKED.log_likelihood)
    move = gj.BestOf(gj.Reverse(UNCONDITIONAL, gj.DDIM(1.0)), log_clean)
    nothing = gj.BestOf(move.kernel, lambda x, level, cond: -jnp.inf)
    steered = gj.Steered(UNCONDITIONAL, gj.DDIM(1.0), log_clean)
    one = gj.keys(0, 2), move, SCHEDULE.levels(3), (2,)

    def of(move):
        return one[0], move, *one[2:]

    for message, ask in {
        "the move of trees must be BestOf": lambda: trees(*of(steered), 4),
        "n >= 2": lambda: trees(*one, 1, jnp.zeros(2, int)),
        "width >= 1": lambda: trees(*one, 4, jnp.zeros(2, int), width=0.5),
        "growth <= 1": lambda: trees(*one, 4, jnp.zeros(2, int), growth=1.5),
        "all 4 weights were zero in run 0": lambda: trees(*of(nothing), 4, jnp.zeros(2, int)),
        "the move of walk must be BestOf": lambda: walk(*of(steered)),
        "walk searches over the starting noise, which masked tokens do not have": lambda: walk(
            gj.keys(0, 2), tokens, FLOW.levels(3), (LENGTH,)
        ),
        "climb needs at least one step": lambda: climb(*one, steps=0),
        r"size of walk must be in \(0, 1\], got 2": lambda: walk(*one, size=2.0),
    }.items():
        with pytest.raises(gj.Refused, match=message):
            ask()
