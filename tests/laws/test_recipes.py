"""What the recipes stand on: each published formula, written out as its paper has it, and the exact answer."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import guidance_jax as gj
from guidance_jax import operators
from guidance_jax.guidance import GaussianLikelihood, Tempered
from guidance_jax.inverse import PiGDM
from guidance_jax.kernels import Churn
from guidance_jax.oracles import Gaussian

HORIZON, ACTIONS = 8, 3


def policy(t, x, observation):
    """A velocity field of action chunks that depends on everything, data at t = 1."""
    mixed = jnp.tanh(x @ jnp.array([[0.5, -1.0, 0.2], [0.3, 0.8, -0.6], [-0.9, 0.1, 0.4]]) + observation)
    return jnp.cumsum(mixed, 0) / 4 - x * (1 - t)


def real_time_chunking(noise, observation, previous, weights, beta, times):
    """Euler's steps of Black et al. 2025 (arXiv 2506.07339), Algorithm 1, in the paper's own variables."""
    x = noise
    for t, after in itertools.pairwise(times):

        def estimate(x, t=t):
            return x + (1 - t) * policy(t, x, observation)

        _, pull = jax.vjp(estimate, x)
        (correction,) = pull(weights[:, None] * (previous - estimate(x)))
        spread = (1 - t) ** 2 / (t**2 + (1 - t) ** 2)
        weight = min((1 - t) / (t * spread), beta)
        x = x + (after - t) * (policy(t, x, observation) + weight * correction)
    return x


def capped(beta):
    """The paper's cap of the guidance weight, as a scale of `PiGDM`."""
    return lambda level: jnp.minimum(1, beta * level.alpha * level.sigma / (level.alpha**2 + level.sigma**2))


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("beta", [5.0, 1.5])
def test_real_time_chunking_is_pigdm_with_a_mask(soft, beta):
    """Five steps, a nonlinear policy, hard and soft masks: the published formula to 1e-5."""
    rng = np.random.default_rng(0)
    noise, previous = (jnp.asarray(rng.normal(size=(HORIZON, ACTIONS)), jnp.float32) for _ in range(2))
    observation = jnp.array([0.3, -0.7, 1.1])
    weights = jnp.array([1, 1, 0.8, 0.55, 0.3, 0.1, 0, 0]) if soft else jnp.array([1.0, 1, 1, 0, 0, 0, 0, 0])
    levels = gj.RectifiedFlow().levels(5)
    want = real_time_chunking(noise, observation, previous, weights, beta, [float(1 - t) for t in levels.t])

    model = gj.from_velocity(policy, data_at=1, batched=False)
    model = gj.Conditioned(model, lambda cond: cond["observation"])
    keep = jnp.ones((HORIZON, 1)) if soft else weights[:, None]
    options = {"weights": jnp.broadcast_to(weights[:, None], (HORIZON, ACTIONS))} if soft else {}
    cond = {"observation": observation, "chunk": keep * previous}
    guided = PiGDM(model, operators.Mask(keep), 1e-4, scale=capped(beta), observed="chunk", **options)
    x = gj.sample(jax.random.key(0), gj.Reverse(guided, gj.DDIM()), levels, noise, cond).x
    unguided = gj.sample(jax.random.key(0), gj.Reverse(model, gj.DDIM()), levels, noise, cond).x
    assert np.abs(unguided - want).max() > 0.3
    np.testing.assert_allclose(x, want, atol=1e-5)


@pytest.mark.parametrize("of", [operators.Mask(jnp.array([1, 0, 1])), lambda x: x[:2] + 0.5 * x[1:]])
def test_weights_of_a_measurement(of):
    """All 1: none given. A weight w: the variance r^2 (1 / w - 1) more noise, by the dense matrix. 0: left out."""
    model, x, level = Gaussian(jnp.zeros(3), jnp.eye(3)), jnp.array([0.5, -1.0, 2.0]), gj.Cosine()(0.6)
    y = jnp.array([1.0, 0.0, -1.0]) if isinstance(of, operators.Mask) else jnp.array([1.0, -0.4])

    def x0(**options):
        return PiGDM(model, of, 0.3, steps=20, **options)(x, level, y, (), jax.random.key(0))[0].x0

    np.testing.assert_allclose(x0(weights=jnp.ones(len(y))), x0(), atol=1e-6)
    weights = jnp.array([0.25, 0.5, 0.8])[: len(y)]
    a = np.asarray(jax.jacobian(of)(jnp.zeros(3)))
    r2 = float(level.sigma**2 / (level.alpha**2 + level.sigma**2))
    noise = 0.3**2 * np.eye(len(y)) + r2 * np.diag(1 / np.asarray(weights) - 1)
    pred = model(x, level, None, (), None)[0]
    v = np.linalg.solve(noise + r2 * a @ a.T, y - a @ pred.x0)
    np.testing.assert_allclose(x0(weights=weights), pred.x0 + r2 * a.T @ v, atol=1e-5)
    np.testing.assert_allclose(x0(weights=jnp.zeros(len(y))), pred.x0, atol=1e-6)


def test_weights_of_a_measurement_are_shares():
    model = PiGDM(Gaussian(jnp.zeros(2), jnp.eye(2)), operators.Mask(jnp.ones(2)), 0.1, weights=jnp.array([0.5, 1.5]))
    with pytest.raises(gj.Refused, match=r"from 0 to 1, got 0\.5 to 1\.5"):
        gj.generate(gj.keys(0, 1), gj.Reverse(model, gj.DDIM()), gj.Cosine().levels(3), (2,), jnp.zeros((1, 2)))


def test_q_guided_flow_is_reconstruction_without_the_pull_back():
    """v + grad Q(D) / beta, the gradient at the clean estimate with the identity as its Jacobian (arXiv 2606.11087)."""
    beta, observation = 3.0, jnp.array([0.3, -0.7, 1.1])
    noise = jnp.asarray(np.random.default_rng(1).normal(size=(HORIZON, ACTIONS)), jnp.float32)

    def q(x0, level, cond):
        return jnp.sum(jnp.sin(2 * x0) - 0.1 * x0**4)

    levels = gj.RectifiedFlow().levels(5)
    x = noise
    for t, after in zip(1 - np.asarray(levels.t[:-1]), 1 - np.asarray(levels.t[1:]), strict=True):
        v = policy(t, x, observation)
        x = x + (after - t) * (v + jax.grad(q)(x + (1 - t) * v, None, None) / beta)
    model = gj.from_velocity(policy, data_at=1, batched=False)
    guided = gj.Reconstruction(model, q, lambda level: level.alpha / (level.sigma * beta), through=False)
    got = gj.sample(jax.random.key(0), gj.Reverse(guided, gj.DDIM()), levels, noise, observation).x
    np.testing.assert_allclose(got, x, atol=1e-5)
    with_jacobian = gj.Reconstruction(model, q, lambda level: level.alpha / (level.sigma * beta))
    other = gj.sample(jax.random.key(0), gj.Reverse(with_jacobian, gj.DDIM()), levels, noise, observation).x
    assert np.abs(other - x).max() > 0.05


# ---- structure prediction: churn ----------------------------------------------------------------------------------


def test_churn_is_the_algorithm_of_the_paper_step_by_step():
    """Karras et al. 2022, Algorithm 2, in float64 numpy with the noise that the kernel drew: VE, Heun."""
    data, gamma, factor = 0.7, 0.3, 1.1
    model = Gaussian(jnp.zeros(1), data**2 * jnp.eye(1))

    def denoise(x, r):
        return data**2 / (data**2 + r**2) * x

    t, s = gj.VE()(3.0), gj.VE()(1.2)
    kernel = Churn(gj.Reverse(model, gj.Heun()), gj.VE(), gamma, noise=factor)
    key, x = jax.random.key(5), jnp.array([2.0])

    def step(kernel, x):
        return float(kernel(kernel.init(x), t, s, None, key).x[0])

    # the added noise is told apart by two factors: the step is linear in it
    raised = 3.0 * (1 + gamma)
    still = step(Churn(gj.Reverse(model, gj.Heun()), gj.VE(), gamma, noise=0.0), x)

    def heun(x):
        d = (x - denoise(x, raised)) / raised
        end = x + (1.2 - raised) * d
        return x + (1.2 - raised) * (d + (end - denoise(end, 1.2)) / 1.2) / 2

    np.testing.assert_allclose(still, heun(2.0), rtol=1e-6)
    z = (step(Churn(gj.Reverse(model, gj.Heun()), gj.VE(), gamma), x) - still) / heun(1.0) / np.sqrt(raised**2 - 9.0)
    assert 0.01 < abs(z) < 5
    want = heun(2.0 + factor * np.sqrt(raised**2 - 9.0) * z)
    np.testing.assert_allclose(step(kernel, x), want, rtol=1e-5)


@pytest.mark.release
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("schedule", [gj.VE(), gj.Cosine(), gj.RectifiedFlow()], ids=lambda s: type(s).__name__)
def test_churn_keeps_the_gaussian_marginal(schedule, measured):
    """The variance of a million coordinates, from the exact marginal down to sigma / alpha .1: off by O(h^2)."""
    data, n, gamma = 0.6, 1_000_000, 0.2
    model = gj.Function(lambda x, level, cond: level.alpha * data**2 / (level.alpha**2 * data**2 + level.sigma**2) * x)

    def error(steps, gamma):
        levels = schedule.by_ratio(jnp.geomspace(8.0, 0.1, steps + 1))
        levels = levels.at(slice(None, -1))
        first, last = (levels.alpha**2 * data**2 + levels.sigma**2)[jnp.array([0, -1])]
        x = jnp.sqrt(first) * jax.random.normal(jax.random.key(1), (n,))
        kernel = Churn(gj.Reverse(model, gj.Heun()), schedule, gamma)
        return abs(float(jnp.var(gj.sample(jax.random.key(2), kernel, levels, x).x) / last) - 1)

    coarse, fine = error(12, gamma), error(24, gamma)
    measured("off with 12 steps", coarse)
    measured("off with 24 steps", fine)
    assert coarse > 0.02  # an error that can be seen falls
    assert fine < coarse / 3 + 3 * np.sqrt(2 / n)


@pytest.mark.slow
def test_churn_without_noise_is_the_kernel_and_noise_ends_a_history():
    """gamma 0: the solver inside. Noise before every step: a multistep solver is of first order, which is DDIM's."""
    model, levels, x = Gaussian(jnp.zeros(2), 0.5 * jnp.eye(2)), gj.Cosine().levels(6), jnp.array([1.0, -0.4])

    def end(solver, gamma):
        kernel = Churn(gj.Reverse(model, solver), gj.Cosine(), gamma)
        return gj.sample(jax.random.key(3), kernel, levels, x).x

    plain = gj.sample(jax.random.key(0), gj.Reverse(model, gj.DPMSolver2M()), levels, x).x
    np.testing.assert_allclose(end(gj.DPMSolver2M(), 0.0), plain, rtol=1e-6)
    np.testing.assert_allclose(end(gj.DPMSolver2M(), 0.3), end(gj.DDIM(), 0.3), atol=1e-5)
    assert np.abs(plain - gj.sample(jax.random.key(0), gj.Reverse(model, gj.DDIM()), levels, x).x).max() > 1e-3


def test_churn_refuses_what_it_cannot_raise():
    model = Gaussian(jnp.zeros(2), jnp.eye(2))
    betas, run = gj.CosineBetas(1000), gj.keys(0, 2)
    for kernel, levels, words in (
        (Churn(gj.Reverse(model, gj.DDIM()), betas, 0.4), betas.levels(10), r"does not have; write hi="),
        (Churn(gj.Reverse(model, gj.DDIM()), gj.VE(), -0.1), gj.VE().levels(5), r"0 or more, got -0\.1"),
        (Churn(gj.Reverse(model, gj.DDIM()), gj.VE(), 0.1), gj.Cosine().levels(5), "another schedule"),
    ):
        with pytest.raises(gj.Refused, match=words):
            gj.generate(run, kernel, levels, (2,))


def test_the_step_scale_of_structure_predictors_is_tempering():
    """x + eta (s - r) (x - D) / r, AlphaFold 3's Algorithm 18, is Euler's step of `Tempered(model, eta)`."""
    model, eta = Gaussian(jnp.zeros(2), 0.5 * jnp.eye(2)), 1.5
    t, s, x = gj.VE()(4.0), gj.VE()(1.5), jnp.array([1.0, -2.0])
    clean = model(x, t, None, (), None)[0].x0
    kernel = gj.Reverse(Tempered(model, eta), gj.DDIM())
    got = kernel(kernel.init(x), t, s, None, jax.random.key(0)).x
    np.testing.assert_allclose(got, x + eta * (1.5 - 4.0) * (x - clean) / 4.0, rtol=1e-6)


# ---- weather: score-based data assimilation ------------------------------------------------------------------------

NOISE = 0.5
WIDTHS = {
    "constant": lambda level: NOISE + 0 * level.ratio,
    "gamma .01": lambda level: jnp.sqrt(NOISE**2 + 0.01 * level.ratio**2),
    "gamma 1": lambda level: jnp.sqrt(NOISE**2 + level.ratio**2),
    "exact": lambda level: jnp.sqrt(NOISE**2 + level.ratio**2 / (1 + level.ratio**2)),
}


@pytest.mark.release
@pytest.mark.parametrize("name", WIDTHS)
def test_the_width_of_the_likelihood_decides_the_posterior(name, measured):
    """Data N(0, 1), y = 1 with noise .5: the posterior is N(.8, .2). 400 steps, 200,000 draws at once."""
    model = gj.Function(lambda x, level, cond: level.alpha / (level.alpha**2 + level.sigma**2) * x)
    guided = gj.Reconstruction(model, GaussianLikelihood(lambda x: x, WIDTHS[name]))
    levels = gj.RectifiedFlow().levels(400)
    kernel = gj.Reverse(guided, gj.DDIM(1.0))
    x = gj.generate(gj.keys(0, 1), kernel, levels, (200_000,), jnp.ones((1, 200_000)))[0]
    mean, variance = float(jnp.mean(x)), float(jnp.var(x))
    measured("mean", mean)
    measured("variance", variance)
    want = {"constant": (0.980, 0.120), "gamma .01": (0.971, 0.121), "gamma 1": (0.674, 0.229), "exact": (0.8, 0.2)}
    assert np.abs(np.array([mean, variance]) - want[name]).max() < 0.008


def test_a_width_by_level_is_a_density():
    """The value holds -dim log std, so that particles may weigh by it: its integral over y is that of any level."""
    guide = GaussianLikelihood(lambda x: x, lambda level: 0.3 + level.ratio)
    y = jnp.arange(-2000, 2001) / 64
    for ratio in (0.1, 2.0):
        level = gj.VE()(ratio)
        density = jnp.exp(jax.vmap(lambda y, level=level: guide.value(jnp.zeros(1), level, y[None]))(y))
        np.testing.assert_allclose(jnp.sum(density) / 64, np.sqrt(2 * np.pi), rtol=1e-4)


def test_a_width_that_is_not_positive_is_refused():
    model = gj.Reconstruction(
        Gaussian(jnp.zeros(2), jnp.eye(2)), GaussianLikelihood(lambda x: x, lambda level: level.ratio - 1)
    )
    with pytest.raises(gj.Refused, match="positive and finite"):
        gj.generate(gj.keys(0, 1), gj.Reverse(model, gj.DDIM()), gj.Cosine().levels(4), (2,), jnp.zeros((1, 2)))
