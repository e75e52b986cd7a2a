"""Values by draws of the clean samples that a noisy one leads to; chains of populations. On exact oracles."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import guidance_jax as gj
from guidance_jax.oracles import monte_carlo_floor
from guidance_jax.oracles.energy import energy_distance
from guidance_jax.particles import Lookahead, PosteriorMean, particle_gibbs
from guidance_jax.particles.lookahead import key_of
from tests.laws.test_guidance import KEY
from tests.laws.test_inverse import MIXTURE, ExactDraw
from tests.thresholds import most_energy_distance, most_total_variation
from tests.token_table import FLOW, MASKED, NULL, SIZE

VE, FREE = gj.VE(), gj.Unconditional(MIXTURE, 2)
LEVEL, X = gj.VE()(jnp.array(1.2)), jnp.array([0.3])


def square(x0, level, cond):
    """A reward with more than one peak, so that the clean estimate does not say it."""
    return x0[0] ** 2


def exact_tilt(scale):
    """(E[x0], log E[exp(scale r)] / scale) of p(x0 | x_t) tilted by exp(scale r), on a fine grid."""
    grid = np.linspace(-6, 6, 20_001)
    log_p = np.asarray(jax.vmap(lambda x: MIXTURE.log_prob(x[None]))(jnp.asarray(grid, jnp.float32)), np.float64)
    log_p -= 0.5 * (grid - float(X[0])) ** 2 / 1.2**2
    p = np.exp(log_p - log_p.max())
    w = p * np.exp(scale * grid**2)
    return (w * grid).sum() / w.sum(), np.log(w.sum() / p.sum()) / scale


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.5, -0.7])
def test_the_posterior_mean_tends_to_the_tilted_estimate(scale, measured):
    """Its bias falls as 1 / draws, its spread as their root; the plain estimate is far off."""
    want, _ = exact_tilt(scale)
    bias = {}
    for draws, n in ((4, 20_000), (16, 20_000), (64, 10_000), (1_000, 1_000)):
        guide = PosteriorMean(FREE, ExactDraw(), square, VE, scale, draws=draws)
        found = jax.jit(jax.vmap(lambda key, g=guide: g(X, LEVEL, None, (), key)[0].x0[0]))(gj.keys(1, n))
        bias[draws] = float(found.mean()) - want
        measured(f"scale {scale}: bias with {draws} draws", bias[draws])
        error = float(found.std()) / np.sqrt(n)
        assert draws < 1_000 or abs(bias[draws]) < 4 * error + 0.002
    assert abs(bias[4]) > 2 * abs(bias[16]) > 4 * abs(bias[64])
    plain = float(FREE(X, LEVEL, None, (), KEY)[0].x0[0])
    assert abs(plain - want) > 3 * abs(bias[16])
    off = PosteriorMean(FREE, ExactDraw(), square, VE, 0.0, draws=3)
    np.testing.assert_allclose(off(X, LEVEL, None, (), KEY)[0].x0[0], plain, atol=1e-6)


def test_the_value_is_that_of_the_samples_and_not_of_the_estimate(measured):
    scale = 0.5
    _, want = exact_tilt(scale)
    guide = Lookahead(FREE, ExactDraw(), square, VE, scale, draws=100_000)
    got = float(guide.value(X, LEVEL, None))
    plain = float(square(FREE(X, LEVEL, None, (), KEY)[0].x0, LEVEL, None))
    measured("value by draws, less the exact one", got - want)
    measured("value of the clean estimate, less the exact one", plain - want)
    assert abs(got - want) < 0.05
    assert abs(plain - want) > 0.3
    clean = gj.VE()(jnp.array(0.0))
    assert float(guide.value(X, clean, None)) == pytest.approx(float(X[0]) ** 2)


def test_the_solvers_draw_what_the_oracle_draws():
    """GLASS in one step, as in the published method, instead of the exact draw."""
    guide = Lookahead(FREE, gj.solvers.GLASS(VE, 300), square, VE, 0.5, draws=20_000)
    assert abs(float(guide.value(X, LEVEL, None)) - exact_tilt(0.5)[1]) < 0.05


def test_keys_depend_on_all_of_the_sample_and_the_level():
    x = jnp.arange(6.0).reshape(2, 3)
    others = [x.at[1, 2].add(1e-6), x[::-1], -x, x.at[0, 0].set(-0.0)]
    data = {tuple(jax.random.key_data(key_of(a, LEVEL)).tolist()) for a in (x, *others)}
    data.add(tuple(jax.random.key_data(key_of(x, VE(jnp.array(1.3)))).tolist()))
    assert len(data) == 6
    tokens = {tuple(jax.random.key_data(key_of(jnp.array(t), LEVEL)).tolist()) for t in ([0, 1], [1, 0], [1, 1])}
    assert len(tokens) == 3


def favours(x0, level, cond):
    """A reward of clean tokens."""
    return jnp.where(x0[0] == x0[2], 1.0, 0.0) + 0.5 * (x0[1] == 0)


def tilted(scale):
    p = MASKED.target()
    reward = np.asarray([float(favours(s, None, None)) for s in MASKED.sequences])
    p = p * np.exp(scale * reward)
    return p / p.sum()


TOKENS, STEPS = gj.Unconditional(MASKED, NULL), FLOW.levels(3)
SOLVER = gj.discrete.FirstHitting()


@pytest.mark.slow
def test_a_random_twist_keeps_particles_exact(measured):
    """One draw a value: the evidence is that of the tilt, and so are weighed particles."""
    scale, runs = 2.0, 100
    guide = Lookahead(TOKENS, SOLVER, favours, FLOW, scale, draws=1, steps=3)
    kernel = gj.SMC(gj.Twisted(TOKENS, SOLVER, guide, scale, noisy=True))
    found = gj.populations(gj.keys(0, runs), kernel, STEPS, (3,), 64)
    reward = np.asarray([float(favours(s, None, None)) for s in MASKED.sequences])
    want = float((MASKED.target() * np.exp(scale * reward)).sum())
    evidence = np.exp(np.asarray(found.log_evidence, np.float64))
    measured("evidence over the exact one", evidence.mean() / want)
    assert abs(evidence.mean() - want) < 4 * evidence.std() / np.sqrt(runs)
    weights = np.asarray(found.log_w)
    distance = MASKED.total_variation(
        np.asarray(found.x).reshape(-1, 3), tilted(scale), (weights + np.asarray(found.log_evidence)[:, None]).ravel()
    )
    assert distance < 0.05
    steered = gj.SMC(gj.Steered(TOKENS, SOLVER, guide, scale, noisy=True))
    evidence = np.exp(np.asarray(gj.populations(gj.keys(1, runs), steered, STEPS, (3,), 64).log_evidence, np.float64))
    assert abs(evidence.mean() - want) < 4 * evidence.std() / np.sqrt(runs)


@pytest.mark.release
def test_children_chosen_by_the_value_of_samples_come_nearer(measured):
    """SVDD: by the exact value's estimate the tilt is nearer than by the reward of the clean estimate."""
    scale, n = 2.0, 20_000
    guide = Lookahead(TOKENS, SOLVER, favours, FLOW, scale, draws=16, steps=3)
    of_samples = gj.kernels.SVDD(TOKENS, SOLVER, guide, scale, children=8, noisy=True)
    of_estimate = gj.kernels.SVDD(TOKENS, SOLVER, favours, scale, children=8)
    found = {
        name: MASKED.total_variation(gj.generate(gj.keys(0, n), kernel, STEPS, (3,)), tilted(scale))
        for name, kernel in (("samples", of_samples), ("estimate", of_estimate))
    }
    for name, value in found.items():
        measured(f"SVDD by the value of the {name}: total variation", value)
    assert found["samples"] < 0.5 * found["estimate"]


def test_particle_gibbs_with_two_particles_samples_the_tilt(measured):
    """Of masks, by rewards of clean estimates; one population of two alone is far off."""
    scale, n, sweeps = 2.0, 10_000, 25
    kernel = gj.SMC(gj.Steered(TOKENS, SOLVER, favours, scale))
    chains = np.asarray(particle_gibbs(gj.keys(0, n), kernel, STEPS, (3,), n=2, sweeps=sweeps))
    target = tilted(scale)
    by_sweep = [MASKED.total_variation(chains[:, i], target) for i in range(sweeps)]
    for i in (0, 4, sweeps - 1):
        measured(f"sweep {i + 1}: total variation", by_sweep[i])
    measured("floor", monte_carlo_floor(target, n))
    assert by_sweep[0] > 10 * by_sweep[-1]
    assert by_sweep[0] > by_sweep[2] > by_sweep[6]
    assert by_sweep[-1] < most_total_variation(target, n)
    with pytest.raises(gj.Refused, match="needs random resampling, got Beam"):
        particle_gibbs(gj.keys(0, 2), gj.SMC(kernel.move, gj.resampling.Beam(1)), STEPS, (3,), 2, 2)
    with pytest.raises(gj.Refused, match="needs at least one sweep"):
        particle_gibbs(gj.keys(0, 2), kernel, STEPS, (3,), 2, 0)


@pytest.mark.slow
def test_particle_gibbs_keeps_the_target_of_a_twist(measured):
    """Of a Gaussian and a measurement: mean and variance of the posterior of the chain, with two particles."""
    model = gj.oracles.Gaussian(jnp.zeros(1), jnp.eye(1))
    levels, n = gj.Cosine().levels(20), 4_000
    likelihood = gj.guidance.GaussianLikelihood(lambda x: x, 0.5)
    twisted = gj.Twisted(model, gj.DDPM(gj.solvers.fixed_large), likelihood, proposal=model)
    kernel = gj.SMC(twisted, threshold=0.0)
    chains = particle_gibbs(gj.keys(0, n), kernel, levels, (1,), n=2, sweeps=20, cond=jnp.ones((n, 1)))
    last = np.asarray(chains[:, 12:], np.float64)
    measured("mean of .8", last.mean())
    measured("variance of .2", last.var())
    assert abs(last.mean() - 0.8) < 0.03
    assert abs(last.var() - 0.2) < 0.03


@pytest.mark.slow
def test_particle_gibbs_of_a_mixture_with_two_particles(measured):
    """Energy distance to exact draws of the tilt, of plain populations of two and of chains of them."""
    n, levels = 2_000, gj.Cosine().levels(60)
    likelihood = gj.guidance.GaussianLikelihood(lambda x: x, 0.5)
    kernel = gj.SMC(
        gj.Steered(gj.Unconditional(MIXTURE, 2), gj.solvers.GLASS(gj.Cosine(), 4), likelihood), threshold=0.0
    )
    chains = particle_gibbs(gj.keys(0, n), kernel, levels, (1,), n=2, sweeps=20, cond=jnp.full((n, 1), 0.4))
    exact = np.asarray(MIXTURE.sample(jax.random.key(1), 200_000), np.float64)
    w = np.exp(-0.5 * ((exact[:, 0] - 0.4) / 0.5) ** 2)
    target = exact[np.random.default_rng(0).choice(len(exact), 8_000, p=w / w.sum())]
    first, last = (float(energy_distance(chains[:, i], target)) for i in (0, -1))
    measured("one population of two: energy distance", first)
    measured("after twenty sweeps", last)
    measured("of exact draws, once in 10,000 times", most_energy_distance(target[-500:], n))
    assert last < 0.05 * first
    assert last < most_energy_distance(target[-500:], n)


def test_ancestors_and_keys_make_the_kept_sample_again():
    """A threshold of 0 never resamples: then the last particle of a sweep is the sample that was kept."""
    kernel = gj.SMC(gj.Steered(TOKENS, SOLVER, lambda x0, level, cond: -1e4 * (x0[0] != 1)), threshold=0.0)
    chains = np.asarray(particle_gibbs(gj.keys(0, 50), kernel, STEPS, (3,), n=6, sweeps=6))
    good = chains[..., 0] == 1  # once such a sample is found it is never lost
    assert (np.diff(good.astype(int), axis=1) >= 0).all()
    assert good[:, -1].mean() > 0.9
    assert SIZE == 3


@pytest.mark.slow
def test_new_ancestors_keep_the_target_and_forget_the_start(measured):
    """Of a Gaussian and a measurement, resampled at every step: without them the paths keep their beginnings."""
    model, n = gj.oracles.Gaussian(jnp.zeros(1), jnp.eye(1)), 4_000
    likelihood = gj.guidance.GaussianLikelihood(lambda x: x, 0.5)
    kernel = gj.SMC(gj.Twisted(model, gj.DDPM(gj.solvers.fixed_large), likelihood, proposal=model), threshold=2.0)
    given = gj.keys(0, n), kernel, gj.Cosine().levels(12), (1,), 4, 16, jnp.ones((n, 1))
    off = {}
    for ancestors in (False, True):
        chains = np.asarray(particle_gibbs(*given, ancestors=ancestors)[:, 8:], np.float64)
        off[ancestors] = abs(chains.mean() - 0.8)
        measured(f"ancestors {ancestors}: mean, off by", off[ancestors])
        measured(f"ancestors {ancestors}: variance of .2", chains.var())
    assert abs(chains.var() - 0.2) < 0.03
    assert off[True] < 0.045 < off[False]


@pytest.mark.slow
def test_new_ancestors_of_tokens_keep_the_tilt(measured):
    """Of masks, by rewards of clean estimates, two particles resampled at every step."""
    n, sweeps = 5_000, 25
    kernel = gj.SMC(gj.Steered(TOKENS, SOLVER, favours, 2.0), threshold=2.0)
    chains = np.asarray(particle_gibbs(gj.keys(0, n), kernel, STEPS, (3,), n=2, sweeps=sweeps, ancestors=True))
    target = tilted(2.0)
    measured("total variation", MASKED.total_variation(chains[:, -1], target))
    assert MASKED.total_variation(chains[:, -1], target) < most_total_variation(target, n)


@pytest.mark.slow
def test_ancestors_that_cannot_lead_to_the_kept_path_are_not_drawn(measured):
    """Weights of contrasts between tokens that neither model allows are no numbers, and no ancestors."""
    n = 4_000
    kernel = gj.SMC(gj.Corrected(gj.CFG(MASKED, NULL, 3.0), SOLVER), threshold=2.0)
    labels = jnp.ones(n, int)
    chains = np.asarray(particle_gibbs(gj.keys(0, n), kernel, STEPS, (3,), 4, 16, labels, ancestors=True))
    distance = MASKED.total_variation(chains[:, -1], MASKED.target(1, 3.0))
    measured("Corrected with new ancestors: total variation", distance)
    assert distance < most_total_variation(MASKED.target(1, 3.0), n)


def test_a_jump_changes_one_position():
    """A sequence that differs in two places cannot come of it."""
    level, x = STEPS.at(0), jnp.full(3, MASKED.space.mask)
    step = SOLVER.transition(TOKENS(x, level, None, (), KEY)[0], level, STEPS.at(1))
    one = x.at[1].set(2)
    assert np.isfinite(step.log_prob(one))
    assert step.log_prob(one.at[0].set(1)) == -jnp.inf
    total = sum(np.exp(step.log_prob(x.at[i].set(v))) for i in range(3) for v in range(SIZE))
    np.testing.assert_allclose(total, 1, rtol=1e-5)


def test_ancestors_need_the_density_of_a_step():
    model = gj.oracles.Gaussian(jnp.zeros(1), jnp.eye(1))
    for move in (
        gj.Steered(model, gj.DDIM(0.0), square),
        gj.particles.BestOf(gj.Reverse(model, gj.DDPM()), square),
    ):
        with pytest.raises(gj.Refused, match="needs the density of a step"):
            particle_gibbs(gj.keys(0, 2), gj.SMC(move), gj.Cosine().levels(4), (1,), 2, 2, ancestors=True)
    remembers = gj.Steered(gj.CFG(MIXTURE, 2, 2.0), gj.DDPM(), square)
    remembers = dataclasses.replace(remembers, model=gj.guidance.APG(MIXTURE, 2, 2.0, momentum=0.5))
    with pytest.raises(gj.Refused, match="got one with a state"):
        particle_gibbs(gj.keys(0, 2), gj.SMC(remembers), gj.Cosine().levels(4), (1,), 2, 2, jnp.zeros(2, int), True)
