"""Order of convergence on an exact ODE, and that stochastic solvers keep the exact marginals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import guidance_jax as gj
from guidance_jax.kernels.recur import renoise
from guidance_jax.oracles import Gaussian
from guidance_jax.oracles.energy import energy_distance
from guidance_jax.particles import resampling
from tests.laws import first
from tests.table import KERNELS, MIXTURE, NOISY, SCHEDULE, SOLVERS

X, LABEL = np.array([0.7, -0.2]), jnp.array(1)


def end(solver, steps, start=0.9, stop=0.1):
    levels = SCHEDULE(jnp.linspace(start, stop, steps + 1))
    run = jax.jit(lambda: gj.sample(jax.random.key(0), gj.Reverse(MIXTURE, solver), levels, jnp.asarray(X), LABEL).x)
    return np.asarray(run())


@functools.cache
def exact_end(stop):
    """Where the ODE ends, by 20,000 steps of Heun; asked for in float64 only."""
    return end(gj.Heun(), 20_000, stop=stop)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("cls", [c for c, row in SOLVERS.items() if row.order])
def test_order(cls):
    solver, order, _ = SOLVERS[cls]
    coarse, fine = (np.linalg.norm(end(solver, n) - exact_end(0.1)) for n in (96, 192))
    assert abs(np.log2(coarse / fine) - order) < 0.25


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("cls", [c for c, row in SOLVERS.items() if row.order])
def test_step_to_the_clean_level_ends_near_the_exact_sample(cls):
    """The point moves by 2.1. In 40 steps, solvers of first order miss its end by .018, the others by .0005 to .003."""
    solver, order, _ = SOLVERS[cls]
    assert np.linalg.norm(end(solver, 40, stop=0.0) - exact_end(0.0)) < (0.025 if order == 1 else 0.004)


DRAWING = NOISY | {cls.__name__: row.solver for cls, row in SOLVERS.items() if row.draws}


@pytest.mark.release
@pytest.mark.parametrize("name", first(2, DRAWING))
def test_stochastic_solvers_keep_the_marginals(name):
    """Mean and covariance of 20,000 samples of one Gaussian class, 200 steps: within 5 standard errors and 2 %."""
    n = 20_000
    target = Gaussian(jnp.array([0.5, -1.0]), jnp.array([[0.5, 0.2], [0.2, 0.3]]))
    x = gj.generate(gj.keys(1, n), gj.Reverse(target, DRAWING[name]), SCHEDULE.levels(200), (2,))
    covariance = np.asarray(target.covariance)
    np.testing.assert_allclose(np.mean(x, 0), target.mean, atol=5 * np.sqrt(covariance.max() / n))
    np.testing.assert_allclose(
        np.cov(x.T), covariance, atol=0.02 * covariance.max() + 5 * covariance.max() * np.sqrt(2 / n)
    )


@pytest.mark.release
@pytest.mark.usefixtures("x64")
def test_ddpm_is_ddim_at_eta_one_and_large_is_larger():
    t, s = SCHEDULE(0.7), SCHEDULE(0.55)
    pred = MIXTURE(jnp.asarray(X), t, LABEL, (), None)[0]
    small, ddim = gj.DDPM().transition(pred, t, s), gj.DDIM(1.0).transition(pred, t, s)
    np.testing.assert_allclose(small.mean, ddim.mean, rtol=1e-12)
    np.testing.assert_allclose(small.std, ddim.std, rtol=1e-12)
    # the forward variance of q(x_t | x_s)
    forward = np.sqrt(t.sigma**2 - (t.alpha / s.alpha * s.sigma) ** 2)
    np.testing.assert_allclose(gj.DDPM(gj.solvers.fixed_large).transition(pred, t, s).std, forward, rtol=1e-12)


def test_recur_once_is_the_kernel():
    kernel = gj.Reverse(MIXTURE, gj.DDIM(1.0))
    args = jax.random.key(3), SCHEDULE.levels(20), jnp.asarray(X, jnp.float32), LABEL
    once = gj.sample(args[0], gj.Recur(kernel, 1), *args[1:]).x
    np.testing.assert_array_equal(once, gj.sample(args[0], kernel, *args[1:]).x)


@pytest.mark.release
def test_renoising_goes_from_marginal_to_marginal():
    """x_s of a Gaussian target, renoised to t, has the moments of x_t."""
    s, t, n = SCHEDULE(0.3), SCHEDULE(0.6), 50_000
    target = Gaussian(jnp.array([0.5, -1.0]), jnp.array([[0.5, 0.2], [0.2, 0.3]]))
    keys = jax.random.split(jax.random.key(0), 3)
    x_s = s.noise(target.sample(keys[0], n), jax.random.normal(keys[1], (n, 2)))
    x_t = jax.vmap(lambda key, x: renoise(key, x, s, t))(jax.random.split(keys[2], n), x_s)
    want = t.alpha**2 * target.covariance + t.sigma**2 * jnp.eye(2)
    np.testing.assert_allclose(np.mean(x_t, 0), t.alpha * target.mean, atol=0.02)
    np.testing.assert_allclose(np.cov(x_t.T), want, atol=0.03)


@pytest.mark.release
def test_kernels_of_the_table_stay_where_the_data_are():
    """Guided at 2, in 50 steps: within 5.5 of the origin, where the means of the mixture are within 2.4."""
    for make in KERNELS.values():
        x = gj.generate(gj.keys(0, 50), make(2.0), SCHEDULE.levels(50), (2,), jnp.arange(50) % 3)
        assert np.linalg.norm(x, axis=1).max() < 5.5


def weighed(t, s, x_t, n):
    """Samples of p(x_s | x_t) of the mixture: of its marginal at s, by the weights q(x_t | x_s) of the forward step."""
    first, second, third = jax.random.split(jax.random.key(8), 3)
    x_s = s.noise(MIXTURE.sample(first, 400_000), jax.random.normal(second, (400_000, 2)))
    kept = t.alpha / s.alpha
    log_w = -0.5 * jnp.sum((x_t - kept * x_s) ** 2, 1) / (t.sigma**2 - (kept * s.sigma) ** 2)
    return np.asarray(x_s[resampling.multinomial(third, log_w)[:n]])


@pytest.mark.release
@pytest.mark.parametrize("ratio", first(1, [0.0, 0.3]))
def test_glass_draws_the_transition_of_the_model(ratio, measured):
    """A large step: energy distance to p(x_s | x_t), beside that of DDPM's normal with the same mean."""
    n, t = 10_000, SCHEDULE.by_ratio([2.0]).at(0)
    s = SCHEDULE(0.0) if ratio == 0 else SCHEDULE.by_ratio([ratio]).at(0)
    levels = jax.tree.map(lambda a, b: jnp.stack([a, b]), t, s)
    x_t = jnp.broadcast_to(jnp.array([0.5, 0.4]), (n, 2))

    def distance(solver):
        kernel = gj.Reverse(gj.Unconditional(MIXTURE, 3), solver)
        x = jax.vmap(lambda k, x: gj.sample(k, kernel, levels, x, 0).x)(gj.keys(0, n), x_t)
        return float(energy_distance(weighed(t, s, x_t[0], n), np.asarray(x)))

    found = {k: distance(gj.solvers.GLASS(SCHEDULE, k)) for k in (1, 4, 16, 64)}
    ddpm = distance(gj.DDPM())
    for what, value in {**found, "DDPM": ddpm}.items():
        measured(what, value)
    assert abs(found[1] - ddpm) < 1e-6
    assert found[1] > found[4] > found[16]
    assert found[64] < 0.01 * ddpm


@pytest.mark.release
def test_few_large_steps_of_glass_end_where_many_small_ones_do(measured):
    """Four stochastic steps from noise to the mixture: energy distance with 32 inside each, and by DDPM's four."""
    n = 10_000
    exact = np.asarray(MIXTURE.sample(jax.random.key(3), n))
    levels = SCHEDULE.by_ratio([30.0, 3.0, 0.8, 0.2])

    def distance(solver):
        x = gj.generate(
            gj.keys(2, n), gj.Reverse(gj.Unconditional(MIXTURE, 3), solver), levels, (2,), jnp.zeros(n, int)
        )
        return float(energy_distance(exact, np.asarray(x)))

    found, ddpm = distance(gj.solvers.GLASS(SCHEDULE, 32)), distance(gj.DDPM())
    measured("GLASS", found)
    measured("DDPM", ddpm)
    assert found < 0.02 * ddpm


@pytest.mark.release
@pytest.mark.parametrize("inside", first(1, [1, 3]))
def test_glass_ends_at_the_data_where_the_clean_level_is_off_the_schedule_and_begins_without_signal(inside):
    """OpenAI's schedule, whose clock 0 is still noisy, and rectified flow from alpha 0: DDPM's last step and start."""
    betas = gj.schedules.LinearBetas()
    for schedule, levels in (
        (betas, betas.levels("50")),
        (gj.RectifiedFlow(), gj.RectifiedFlow().levels(50, start=1.0)),
    ):
        kernel = gj.Reverse(gj.Unconditional(MIXTURE, 3), gj.solvers.GLASS(schedule, inside))
        x = np.asarray(gj.generate(gj.keys(2, 4000), kernel, levels, (2,), jnp.zeros(4000, int)))
        distance = float(energy_distance(np.asarray(MIXTURE.sample(jax.random.key(3), 4000)), x))
        assert distance < 0.02


def test_glass_without_steps_is_refused():
    with pytest.raises(gj.Refused, match="got steps=0"):
        gj.solvers.GLASS(SCHEDULE, 0)
