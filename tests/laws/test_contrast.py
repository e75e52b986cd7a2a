"""Contrast methods: special cases, conserved quantities, and what the papers promise, on exact models in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import guidance_jax as gj
from guidance_jax.guidance import (
    APG,
    FDG,
    MAMBOG,
    TCFG,
    AdaptiveGuidance,
    CFGPlusPlus,
    CFGZeroStar,
    Compose,
    DynamicNegative,
    Perturbed,
    Ramp,
)
from guidance_jax.oracles import Gaussian
from guidance_jax.oracles.energy import energy_distance
from tests.laws.test_guidance import KEY, LABEL, LEVELS, X, same, see
from tests.table import MIXTURE, NULL, SCHEDULE, UNCONDITIONAL, mean, two

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    "rule",
    [
        lambda w: APG(MIXTURE, NULL, w, eta=1.0, momentum=0.0, radius=jnp.inf),
        lambda w: FDG(MIXTURE, NULL, w, low=w, lowpass=mean),
        lambda w: MAMBOG(MIXTURE, NULL, w, damping=0.0),
        lambda w: AdaptiveGuidance(MIXTURE, NULL, w, threshold=1.1),
        lambda w: Perturbed(MIXTURE, NULL, w, weak=MIXTURE, weak_scale=5.0),
        lambda w: Perturbed(MIXTURE, NULL, 1.0, weak=UNCONDITIONAL, weak_scale=w - 1),
        lambda w: gj.Conditioned(Compose(MIXTURE, NULL, w * jnp.ones(1)), lambda label: label[None]),
        lambda w: gj.CFG(MIXTURE, NULL, Ramp(w, power=0.0)),
    ],
    ids=["APG", "FDG", "MAMBOG", "Adaptive", "Perturbed by itself", "Perturbed alone", "Compose", "Ramp"],
)
def test_special_cases_are_cfg(rule, level):
    same(see(rule(3.0), level), see(gj.CFG(MIXTURE, NULL, 3.0), level))


@pytest.mark.parametrize("level", LEVELS)
def test_apg_without_its_parallel_part_moves_across_the_estimate(level):
    own = see(MIXTURE, level).x0
    moved = see(APG(MIXTURE, NULL, 4.0, eta=0.0, momentum=0.0, radius=jnp.inf), level).x0 - own
    assert abs(float(moved @ own)) < 1e-6 * float(jnp.linalg.norm(moved) * jnp.linalg.norm(own)) + 1e-9
    short = see(APG(MIXTURE, NULL, 4.0, eta=1.0, momentum=0.0, radius=0.01), level).x0 - own
    np.testing.assert_allclose(jnp.linalg.norm(short), 3 * 0.01, rtol=1e-5)


@pytest.mark.parametrize("level", LEVELS)
def test_cfg_plus_plus_keeps_the_unconditional_noise(level):
    got = see(CFGPlusPlus(MIXTURE, NULL, 0.6), level)
    np.testing.assert_allclose(got.eps, see(UNCONDITIONAL, level).eps, rtol=1e-6)
    np.testing.assert_allclose(got.x0, see(gj.CFG(MIXTURE, NULL, 0.6), level).x0, rtol=1e-6)


def outputs(c, u, how):
    """A model that puts out c for the label and u for the null label."""
    return gj.Function(lambda x, level, cond: jnp.where(cond == NULL, u, c), how)


def test_cfg_zero_star_does_not_mind_the_length_of_the_unconditional_velocity():
    c, u = jax.random.normal(KEY, (2, 2))
    first, second = (
        see(CFGZeroStar(outputs(c, k * u, gj.parameterizations.velocity), NULL, 4.0), LEVELS[2]) for k in (1.0, 7.0)
    )
    same(first, second)
    still = see(CFGZeroStar(outputs(c, u, gj.parameterizations.velocity), NULL, 4.0, zero_above=0.1), LEVELS[2])
    np.testing.assert_allclose(still.eps - still.x0, 0, atol=1e-9)


@pytest.mark.release
def test_tcfg_projects_as_a_singular_value_decomposition_does():
    for seed in range(5):
        c, u = jax.random.normal(jax.random.key(seed), (2, 6))
        v1 = np.linalg.svd(np.stack([c, u]))[2][0]
        shared = (u @ v1) * v1
        got = see(TCFG(outputs(c, u, gj.parameterizations.eps), NULL, 4.0), LEVELS[0], x=np.zeros(6)).eps
        np.testing.assert_allclose(got, shared + 4 * (c - shared), atol=1e-6)


def test_fdg_guides_only_the_band_that_it_is_told_to():
    c, u = jax.random.normal(KEY, (2, 4, 4, 1))
    fine = see(FDG(outputs(c, u, gj.parameterizations.x0), NULL, 5.0, low=1.0), LEVELS[0], x=np.zeros((4, 4, 1))).x0
    pooled = (fine - c).reshape(2, 2, 2, 2).mean((1, 3))  # means of 2 x 2 pixels: nearly all of it is fine
    assert np.abs(pooled).max() < 0.5 * np.abs(fine - c).max()
    flat = jnp.full((4, 4, 1), 0.3)
    for low in (1.0, 5.0):  # a constant difference has no detail: only `low` acts on it
        got = see(
            FDG(outputs(u + flat, u, gj.parameterizations.x0), NULL, 9.0, low=low),
            LEVELS[0],
            x=np.zeros((4, 4, 1)),
        ).x0
        np.testing.assert_allclose(got, u + low * flat, atol=1e-6)


@pytest.mark.parametrize("level", LEVELS)
def test_composition_of_independent_conditions_is_the_joint_posterior(level):
    """Two measurements, each of its own coordinate: their product is exact, NOT is the inverse."""
    prior = Gaussian(jnp.array([0.5, -1.0]), jnp.diag(jnp.array([0.5, 0.8])))
    rows, y = jnp.eye(2), jnp.array([1.3, 0.2])
    each = [prior.condition(rows[i : i + 1], y[i : i + 1], 0.4) for i in range(2)]

    def x0(x, level, cond):
        several = jnp.stack([m(x, level, None, (), None)[0].x0 for m in (*each, prior)])
        return several[cond]

    got = see(Compose(gj.Function(x0), 2, jnp.ones(2)), level, label=jnp.arange(2))
    same(got, see(prior.condition(rows, y, 0.4), level))


def test_negative_guidance_is_a_negative_scale():
    one = gj.Conditioned(Compose(MIXTURE, NULL, jnp.array([2.0, -0.5])), two)
    c, n, u = (see(MIXTURE, LEVELS[0], label=jnp.array(k)).x0 for k in (1, 2, NULL))
    np.testing.assert_allclose(see(one, LEVELS[0]).x0, u + 2 * (c - u) - 0.5 * (n - u), rtol=1e-6)
    np.testing.assert_allclose(see(gj.CFG(MIXTURE, NULL, -1.0), LEVELS[0]).x0, 2 * u - c, atol=1e-6)
    np.testing.assert_allclose(see(gj.CFG(MIXTURE, 2, 3.0), LEVELS[0]).x0, n + 3 * (c - n), atol=1e-6)


REST = gj.GaussianMixture(MIXTURE.means, MIXTURE.std, jnp.where(MIXTURE.classes == 1, 0, MIXTURE.weights))


@pytest.mark.release
@pytest.mark.parametrize("level", LEVELS)
def test_dynamic_negative_guidance_with_the_true_posterior_is_the_model_of_the_rest(level):
    model = DynamicNegative(MIXTURE, NULL, 1.0, limit=1e9)
    inner, memory = model.init(jnp.asarray(X))
    exact = MIXTURE.log_posterior(jnp.asarray(X), level, LABEL)
    got = model(jnp.asarray(X), level, LABEL, (inner, memory._replace(log_posterior=exact)), KEY)[0]
    same(got, see(REST, level, label=None), atol=1e-5)


@pytest.mark.release
def test_dynamic_negative_guidance_avoids_a_class_and_nothing_else(measured):
    """Against exact samples of the other classes: far nearer than static negative guidance of any strength tried."""
    n, levels = 10_000, SCHEDULE.levels(200)
    labels = jnp.full(n, 1)

    def distance(model):
        x = gj.generate(gj.keys(3, n), gj.Reverse(model, gj.DDIM(1.0)), levels, (2,), labels)
        return float(energy_distance(REST.sample(jax.random.key(0), n), np.asarray(x)))

    dynamic = distance(DynamicNegative(MIXTURE, NULL, 1.0, prior=0.4))
    static = min(distance(gj.CFG(MIXTURE, NULL, -w)) for w in (0.3, 1.0, 3.0))
    measured("dynamic", dynamic)
    measured("best static", static)
    assert dynamic < 0.1 * static


def test_adaptive_guidance_stops_for_good_once_the_two_agree():
    model = AdaptiveGuidance(MIXTURE, NULL, 4.0, threshold=-1.1)  # they always agree, from now on
    states, asked = model.init(jnp.asarray(X))
    state = states, asked._replace(differed=jnp.array(True))
    first, state = model(jnp.asarray(X), LEVELS[0], LABEL, state, KEY)
    same(first, see(gj.CFG(MIXTURE, NULL, 4.0), LEVELS[0]))
    same(model(jnp.asarray(X), LEVELS[0], LABEL, state, KEY)[0], see(MIXTURE, LEVELS[0]))


def test_a_ramp_has_the_mean_of_its_constant():
    flow = gj.RectifiedFlow()(jnp.linspace(0.0, 1.0, 20_001))
    for power in (1.0, 2.0, 0.5):
        ramp = jax.vmap(lambda level, p=power: Ramp(4.0, p).strength(level, None, 1.0))(flow)
        np.testing.assert_allclose(jnp.mean(ramp), 4.0, rtol=1e-3)
        assert (np.diff(ramp) <= 0).all()


def test_only_the_channels_that_the_model_wants_guided_are():
    domain = gj.Domain((2,), num_classes=3, null_label=NULL, guided_channels=1)

    def apply(params, x, t, cond):
        return MIXTURE(x, LEVELS[0], cond, (), None)[0].x0

    model = gj.Network((), apply, gj.parameterizations.x0, domain, batched=False)
    whole = dataclasses.replace(model, domain=dataclasses.replace(domain, guided_channels=None))
    for make in (
        lambda m: gj.CFG(m, NULL, 3.0),
        lambda m: TCFG(m, NULL, 3.0),
        lambda m: gj.Autoguidance(m, m, 3.0),
    ):
        got, own, full = (see(m, LEVELS[0]).x0 for m in (make(model), model, make(whole)))
        np.testing.assert_allclose(got, jnp.stack([full[0], own[1]]), rtol=1e-6)


def test_a_held_unconditional_prediction_is_skipped_and_restored():
    """Asked at all levels it is CFG; at half of them it makes fewer calls, by the ledger; and what is held is used."""
    levels = gj.Cosine().levels(40)

    def x0(x, level, cond):  # of N(cond / 2, .3^2) by label, of N(0, 1) without
        mean, variance = jnp.where(cond == 3, 0.0, cond / 2), jnp.where(cond == 3, 1.0, 0.09)
        gain = level.alpha * variance / (level.alpha**2 * variance + level.sigma**2)
        return mean + gain * (x - level.alpha * mean)

    network = gj.Function(x0)

    def run(guide):
        kernel = gj.Reverse(guide, gj.DDIM())
        x = gj.generate(gj.keys(0, 3), kernel, levels, (4, 4, 1), jnp.arange(3))
        calls = gj.diagnostics.ledger(kernel, levels, (4, 4, 1), jnp.array(1)).calls
        return np.asarray(x), sum(calls.values())

    held = gj.guidance.FasterCache
    plain, both = run(gj.CFG(network, 3, 3.0))
    same_, all_ = run(held(network, 3, 3.0, levels.t))
    half, fewer = run(held(network, 3, 3.0, levels.t[::2], boost=1.0))
    first, fewest = run(held(network, 3, 3.0, levels.t[:1], boost=0.0))
    np.testing.assert_allclose(same_, plain, atol=1e-5)
    assert (both, all_, fewer, fewest) == (80, 80, 60, 41)
    alone, _ = run(network)
    misses = [float(np.abs(x - plain).mean()) for x in (half, first, alone)]
    assert misses[0] < 0.3 * min(misses[1:])
    with pytest.raises(gj.Refused, match="an unconditional call at the first level"):
        run(held(network, 3, 3.0, levels.t[1:]))


def test_the_boost_of_held_frequencies_is_low_at_low_noise_and_high_at_high_noise():
    guide = gj.guidance.FasterCache(MIXTURE, NULL, 2.0, jnp.zeros(1), boost=2.0, middle=1.0)
    difference = jax.random.normal(jax.random.key(0), (10, 10, 1))
    low = gj.guidance.faster_cache.is_low(difference)
    spectrum = np.fft.fft2(difference[..., 0])
    c = gj.Prediction(jnp.zeros((10, 10, 1)), jnp.zeros((10, 10, 1)))
    assert int(low.sum()) == 13  # frequencies within 2 of 0
    for t, boosted in ((0.8, ~low), (0.2, low)):
        level = gj.Cosine()(jnp.array(t))
        memory = gj.guidance.faster_cache.spectrum(difference)
        guided, _ = guide.rule(c, c, 0.0, difference, level, memory)
        want = np.fft.ifft2(np.where(boosted[..., 0], 2.0, 1.0) * spectrum).real
        np.testing.assert_allclose(guided.eps[..., 0], want, atol=1e-5)
