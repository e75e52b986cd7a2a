"""Particle methods: exact posteriors, unbiased evidence, and what they do with bad weights."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import guidance_jax as gj
from guidance_jax.guidance import GaussianLikelihood, Tempered
from guidance_jax.oracles import Gaussian
from guidance_jax.particles import ParticleGuidance, difference, maximum, total
from guidance_jax.particles.populations import _populations
from tests.laws import first
from tests.table import MIXTURE, NULL, POPULATIONS, SCHEDULE, UNCONDITIONAL, log_clean, log_posterior
from tests.thresholds import most_energy_distance

LEVELS = SCHEDULE.levels(12)
RESAMPLERS = [gj.resampling.systematic, gj.resampling.stratified, gj.resampling.residual, gj.resampling.multinomial]
PRIOR = Gaussian(jnp.array([0.5, -1.0]), jnp.array([[0.5, 0.2], [0.2, 0.3]]))
ROW, STD = jnp.array([[1.0, -0.6]]), 0.4
MEASURE = GaussianLikelihood(lambda x: ROW @ x, STD)


@pytest.mark.parametrize("resample", RESAMPLERS, ids=lambda f: f.__name__)
def test_resampling_copies_by_weight(resample):
    """The mean number of copies is n w; systematic and residual never stray by one or more (below)."""
    log_w = jnp.log(jnp.array([0.05, 0.4, 0.0, 0.15, 0.25, 0.1, 0.05]))
    counts = jax.vmap(lambda key: jnp.bincount(resample(key, log_w), length=7))(
        jax.random.split(jax.random.key(0), 4000)
    )
    share = 7 * np.exp(np.asarray(log_w))
    np.testing.assert_allclose(counts.mean(0), share, atol=5 * np.sqrt(7 / 4 / 4000))
    assert (counts[:, 2] == 0).all()
    if resample is gj.resampling.systematic:
        assert (np.abs(counts - share) < 1 + 1e-5).all()
    if resample is gj.resampling.residual:
        assert (counts >= np.floor(share + 1e-5)).all()


@pytest.mark.release
def test_the_effective_sample_size_decides_whether_a_population_is_resampled():
    """By hand: weights 3, 1, 1, 1 have the size (3 + 1 + 1 + 1)^2 / (9 + 1 + 1 + 1) = 3 of 4: .75 is the limit."""

    def reward(x0, level, cond):
        return jnp.where(x0[0] > 2, jnp.log(3.0), 0.0)

    levels, x = SCHEDULE.levels(2), jnp.array([[3.0, 0.0], [1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]])
    model = gj.Function(lambda x, level, cond: x)
    for threshold, resampled in ((0.74, False), (0.76, True)):
        smc = gj.SMC(gj.Steered(model, gj.DDIM(1.0), reward, 1.0), threshold=threshold)
        pop = smc(smc.init(x), levels.at(0), levels.at(1), None, jax.random.key(0))
        np.testing.assert_allclose(pop.ess, 3.0, rtol=1e-5)
        assert (np.ptp(pop.log_w) == 0) == resampled


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_a_population_that_rests_on_one_particle_has_collapsed_however_often_it_is_resampled(threshold):
    """After resampling all weights are equal, so the size before it must be told too."""

    def greedy(x0, level, cond):
        return 300.0 * x0[0]

    model = gj.Function(lambda x, level, cond: x)
    move = gj.Steered(model, gj.DDIM(1.0), greedy, 1.0)
    found = gj.populations(gj.keys(0, 2), gj.SMC(move, threshold=threshold), SCHEDULE.levels(4), (2,), 16)
    assert np.asarray(found.collapsed).all()
    calm = gj.Steered(model, gj.DDIM(1.0), greedy, 0.0)
    found = gj.populations(gj.keys(0, 2), gj.SMC(calm, threshold=threshold), SCHEDULE.levels(4), (2,), 16)
    assert not np.asarray(found.collapsed).any()


def test_resampling_of_equal_weights_keeps_everyone():
    for resample in (gj.resampling.systematic, gj.resampling.stratified, gj.resampling.residual):
        assert sorted(np.asarray(resample(jax.random.key(1), jnp.zeros(8))).tolist()) == list(range(8))


@pytest.mark.parametrize("cls", first([gj.Twisted], POPULATIONS))
def test_laws_of_the_loop(cls):
    """One program for all numbers; a run depends on its own key alone; microbatches change nothing; type kept."""
    cond = jnp.array([0, 1, 2])
    run = partial(gj.populations, levels=LEVELS, shape=(2,), n=6, cond=cond)
    found = run(gj.keys(0, 3), POPULATIONS[cls](1.5))
    assert found.x.shape == (3, 6, 2)
    assert found.x.dtype == found.log_evidence.dtype == jnp.float32
    assert found.ess.shape == (3, 13)
    w = np.exp(np.asarray(found.log_w, np.float64))
    np.testing.assert_allclose(found.ess[:, -1], w.sum(1) ** 2 / (w**2).sum(1), rtol=1e-4)
    assert np.isfinite(found.x).all()
    assert not found.dropped.any()
    np.testing.assert_allclose(jax.nn.logsumexp(found.log_w, 1), np.log(6), atol=1e-5)
    before = _populations._cache_size()
    gj.populations(
        gj.keys(7, 3), POPULATIONS[cls](jnp.float32(0.7)), gj.Cosine()(jnp.linspace(0.9, 0, 13)), (2,), 6, cond[::-1]
    )
    assert _populations._cache_size() == before
    alone = gj.populations(gj.keys(0, 1, start=2), POPULATIONS[cls](1.5), LEVELS, (2,), 6, cond[2:])
    np.testing.assert_allclose(alone.x[0], found.x[2], atol=2e-4, rtol=2e-5)
    kernel = POPULATIONS[cls](1.5)
    if isinstance(kernel, gj.SMC):
        batched = run(gj.keys(0, 3), gj.SMC(kernel.move, threshold=0.7, microbatch=4))
        np.testing.assert_allclose(batched.x, found.x, atol=2e-4, rtol=2e-5)


def chain_end(levels):
    """(mean, covariance) of DDPM's own chain on the Gaussian, by pushing moments through its affine steps."""
    solver = gj.DDIM(1.0)
    mean, covariance = np.zeros(2), float(levels.sigma[0]) ** 2 * np.eye(2)
    for i in range(len(levels.t) - 1):
        t, s = levels.at(i), levels.at(i + 1)

        def step(x, t=t, s=s):
            return solver.transition(PRIOR(x, t, None, (), None)[0], t, s).mean

        slope = np.asarray(jax.jacobian(step)(jnp.zeros(2)))
        std = float(solver.transition(PRIOR(jnp.zeros(2), t, None, (), None)[0], t, s).std)
        mean = slope @ mean + np.asarray(step(jnp.zeros(2)))
        covariance = slope @ covariance @ slope.T + std**2 * np.eye(2)
    return mean, covariance


GAUSSIAN = {
    "twisted, systematic": (gj.Twisted(PRIOR, gj.DDIM(1.0), MEASURE), gj.resampling.systematic),
    "twisted, stratified": (gj.Twisted(PRIOR, gj.DDIM(1.0), MEASURE), gj.resampling.stratified),
    "twisted, residual": (gj.Twisted(PRIOR, gj.DDIM(1.0), MEASURE), gj.resampling.residual),
    "twisted, multinomial": (gj.Twisted(PRIOR, gj.DDIM(1.0), MEASURE), gj.resampling.multinomial),
    "steered, difference": (gj.Steered(PRIOR, gj.DDIM(1.0), MEASURE, 1.0, difference), gj.resampling.systematic),
    "best of many": (gj.BestOf(gj.Reverse(PRIOR, gj.DDIM(1.0)), MEASURE), gj.resampling.systematic),
}


@pytest.mark.release
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", GAUSSIAN)
def test_particles_reach_the_posterior_and_its_evidence(name, measured):
    """200 runs of 256 particles: the mean evidence within 4 standard errors of the exact one; posterior moments."""
    y, runs, levels = 1.5, 200, SCHEDULE.levels(40)
    move, resample = GAUSSIAN[name]
    found = gj.populations(gj.keys(0, runs), gj.SMC(move, resample), levels, (2,), 256, jnp.full((runs, 1), y))
    mean, covariance = chain_end(levels)
    row = np.asarray(ROW, np.float64)
    variance = (row @ covariance @ row.T).item() + STD**2
    # GaussianLikelihood leaves the constant out
    exact = -0.5 * (y - (row @ mean).item()) ** 2 / variance - 0.5 * np.log(variance / STD**2)
    evidence = np.exp(np.asarray(found.log_evidence) - exact)
    error = evidence.std() / np.sqrt(runs)
    measured("evidence over the exact", evidence.mean())
    measured("its error", error)
    assert abs(evidence.mean() - 1) < 4 * error
    posterior = Gaussian(jnp.asarray(mean), jnp.asarray(covariance)).condition(jnp.asarray(row), jnp.array([y]), STD)
    w, x = np.asarray(found.log_w + found.log_evidence[:, None]).ravel(), np.asarray(found.x).reshape(-1, 2)
    w = np.exp(w - w.max()) / np.exp(w - w.max()).sum()
    np.testing.assert_allclose(w @ x, posterior.mean, atol=0.03)
    np.testing.assert_allclose((w[:, None] * (x - w @ x)).T @ (x - w @ x), posterior.covariance, atol=0.03)


def rising(level):
    """1 where noise dominates, 3 at the clean level: p(y|x)^3 of a sharp classifier is nearly p(y|x)."""
    return 1 + 2 * level.alpha / (level.alpha + level.sigma)


LARGE = gj.DDPM(gj.solvers.fixed_large)
EXACT = {
    "twisted by the noisy classifier": gj.Twisted(UNCONDITIONAL, LARGE, log_posterior, rising, noisy=True),
    "corrected CFG": gj.Corrected(gj.CFG(MIXTURE, NULL, 3.0), LARGE, proposal=1.0),
    "corrected classifier guidance": gj.Corrected(
        gj.Classifier(UNCONDITIONAL, log_posterior, 3.0), LARGE, proposal=1.0
    ),
    "best of many": gj.BestOf(gj.Reverse(UNCONDITIONAL, LARGE), log_clean, 3.0),
}


@pytest.mark.release
@pytest.mark.parametrize("name", EXACT)
def test_particles_at_scale_three_are_within_the_floor(name, measured):
    """p(x) p(y|x)^3 on an asymmetric mixture: 5,000 draws, 400 steps; plain guidance is 40 floors away.

    The weights of the two that are led by the classifier's gradient have heavy tails: ten runs are at the floor in the
    median over seeds and far above it for one seed in five. So they get forty runs.
    """
    runs, n, label = 40 if "classifier" in name else 10, 5_000, 1
    smc = gj.SMC(EXACT[name], threshold=0.9)
    found = gj.populations(gj.keys(5, runs), smc, SCHEDULE.levels(400), (2,), 20_000, jnp.full(runs, label))
    log_w = np.asarray(found.log_w + found.log_evidence[:, None], np.float64).ravel()
    edges = np.cumsum(np.exp(log_w - log_w.max()))
    index = np.searchsorted(edges, (np.random.default_rng(0).random() + np.arange(n)) / n * edges[-1])
    draws = np.asarray(found.x).reshape(-1, 2)[index]
    bias = MIXTURE.bias(jax.random.key(0), draws, label, 3.0)
    measured("distance", bias.distance)
    measured("floor", bias.floor)
    assert bias.distance <= most_energy_distance(MIXTURE.sample_tilted(jax.random.key(3), 400, label, 3.0), n)


@pytest.mark.release
def test_every_potential_has_the_same_evidence():
    """A chain of 6 steps: E[exp(scale r)] whatever leads there. Guidance at scale 0 or 1 needs no correction."""
    runs, levels, label = 200, SCHEDULE.levels(6), 2
    means = []
    for potential in (difference, maximum, total):
        move = gj.Steered(UNCONDITIONAL, gj.DDIM(1.0), log_clean, 0.02, potential)
        found = gj.populations(gj.keys(1, runs), gj.SMC(move), levels, (2,), 64, jnp.full(runs, label))
        means.append(np.exp(np.asarray(found.log_evidence)).mean())
    end = gj.BestOf(gj.Reverse(UNCONDITIONAL, gj.DDIM(1.0)), log_clean, 0.02)
    found = gj.populations(gj.keys(1, runs), gj.SMC(end), levels, (2,), 64, jnp.full(runs, label))
    np.testing.assert_allclose(means, np.exp(np.asarray(found.log_evidence)).mean(), rtol=0.05)
    for move in (
        gj.Corrected(gj.CFG(MIXTURE, NULL, 1.0), gj.DDIM(1.0)),
        gj.Corrected(gj.Classifier(UNCONDITIONAL, log_posterior, 0.0), gj.DDIM(1.0)),
    ):
        found = gj.populations(gj.keys(1, 2), gj.SMC(move), levels, (2,), 8, jnp.full(2, label))
        np.testing.assert_allclose(found.log_evidence, 0, atol=1e-6)


@pytest.mark.release
def test_annealing_samples_the_power_of_a_density():
    """p(x)^2 of a Gaussian is the Gaussian of half the covariance."""
    levels = gj.schedules.log_snr_uniform(SCHEDULE, 400, lo=0.01, hi=8.0)
    gaussian = Gaussian(jnp.array([0.5, -1.0]), jnp.array([[0.5, 0.2], [0.2, 0.3]]))
    smc = gj.SMC(gj.Corrected(Tempered(gaussian, 2.0), LARGE), threshold=0.9)
    found = gj.populations(gj.keys(0, 10), smc, levels, (2,), 5_000)
    w, x = np.asarray(found.log_w + found.log_evidence[:, None]).ravel(), np.asarray(found.x).reshape(-1, 2)
    w = np.exp(w - w.max()) / np.exp(w - w.max()).sum()
    np.testing.assert_allclose(w @ x, gaussian.mean, atol=0.02)
    np.testing.assert_allclose((w[:, None] * (x - w @ x)).T @ (x - w @ x), gaussian.covariance / 2, atol=0.01)


@pytest.mark.release
def test_best_is_the_best_and_draws_follow_the_weights():
    move = gj.BestOf(gj.Reverse(UNCONDITIONAL, gj.DDIM(1.0)), log_clean, 5.0)
    found = gj.populations(gj.keys(0, 3), gj.SMC(move, threshold=0.0), LEVELS, (2,), 32, jnp.array([0, 1, 2]))
    for run in range(3):
        rewards = jax.vmap(lambda x, run=run: log_clean(x, None, run))(found.x[run])
        np.testing.assert_allclose(found.best()[run], found.x[run, int(jnp.argmax(rewards))])
    # the particle of each of 3,000 draws, which follow the weights: within 5 standard errors
    draws = jax.vmap(found.draw)(jax.random.split(jax.random.key(0), 3000))
    share = np.exp(np.asarray(found.log_w)) / 32
    for run in range(3):
        chosen = np.all(np.asarray(draws)[:, run, None] == np.asarray(found.x[run]), -1)
        assert (chosen.sum(1) == 1).all()
        error = np.sqrt(share[run] * (1 - share[run]) / 3000)
        np.testing.assert_allclose((chosen.mean(0) - share[run]) / (error + 1e-4), 0, atol=5)


@pytest.mark.release
def test_particle_guidance_spreads_a_population_out():
    def spread(scale):
        kernel = ParticleGuidance(MIXTURE, gj.DDIM(), scale)
        found = gj.populations(gj.keys(0, 20), kernel, SCHEDULE.levels(40), (2,), 8, jnp.full(20, 1))
        x = np.asarray(found.x)
        return np.linalg.norm(x[:, :, None] - x[:, None], axis=-1).mean()

    assert spread(0.3) > 1.05 * spread(0.0)


@pytest.mark.release
def test_particle_guidance_at_zero_is_independent_sampling():
    kernel = ParticleGuidance(MIXTURE, gj.DDIM(), 0.0)
    found = gj.populations(gj.keys(0, 1), kernel, LEVELS, (2,), 5, jnp.array([1]))
    first = jax.random.split(gj.keys(0, 1)[0], 3)[0]
    x = LEVELS.sigma[0] * jax.random.normal(first, (5, 2))
    alone = jax.vmap(lambda x: gj.sample(jax.random.key(0), gj.Reverse(MIXTURE, gj.DDIM()), LEVELS, x, 1).x)(x)
    np.testing.assert_allclose(found.x[0], alone, atol=2e-4)


@pytest.mark.release
def test_weights_that_are_no_numbers_are_zero_and_counted():
    """A likelihood that is NaN on half of the plane: those particles weigh nothing, and the report says how many."""

    def reward(x0, level, cond):
        return jnp.where(x0[0] > 0, jnp.nan, -(x0[1] ** 2))

    move = gj.BestOf(gj.Reverse(UNCONDITIONAL, gj.DDIM(1.0)), reward)
    found = gj.populations(gj.keys(0, 2), gj.SMC(move, threshold=0.0), LEVELS, (2,), 40, jnp.array([0, 0]))
    lost = np.asarray(found.x[..., 0]) > 0
    assert 0 < lost.sum() < 80
    np.testing.assert_array_equal(found.dropped, lost.sum(1))
    assert (np.asarray(found.log_w)[lost] == -np.inf).all()
    assert np.isfinite(found.log_evidence).all()


@pytest.mark.release
def test_all_weights_zero_is_an_error_that_names_the_level():
    def never(x0, level, cond):
        return jnp.where(level.ratio < 0.5, -jnp.inf, 0.0)

    move = gj.Steered(UNCONDITIONAL, gj.DDIM(1.0), never)
    with pytest.raises(ValueError, match=r"all 4 weights were zero in run 0, first at sigma / alpha = 0\.[34]"):
        gj.populations(gj.keys(0, 1), gj.SMC(move), LEVELS, (2,), 4, jnp.array([0]))
