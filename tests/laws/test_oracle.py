"""What the samplers really sample, against exact draws: the statistical laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import guidance_jax as gj
from guidance_jax.oracles import Gaussian
from guidance_jax.oracles.energy import energy_distance
from tests.table import MIXTURE, NULL, SCHEDULE, UNCONDITIONAL, log_posterior
from tests.thresholds import most_energy_distance

N, LABEL = 20_000, 1
LEVELS = SCHEDULE.levels(200)
CONDITIONAL = {
    "classifier, score form": gj.Reverse(gj.Classifier(UNCONDITIONAL, log_posterior, 1.0), gj.DDIM(1.0)),
    "classifier, mean form": gj.MeanShift(UNCONDITIONAL, gj.DDPM(gj.solvers.fixed_large), log_posterior, 1.0),
    "classifier-free": gj.Reverse(gj.CFG(MIXTURE, NULL, 1.0), gj.DDIM(1.0)),
}


def draw(kernel):
    return gj.generate(gj.keys(11, N), kernel, LEVELS, (2,), jnp.full(N, LABEL))


@pytest.mark.release
@pytest.mark.parametrize("name", CONDITIONAL)
def test_scale_one_is_the_exact_conditional(name, measured):
    bias = MIXTURE.bias(jax.random.key(0), draw(CONDITIONAL[name]), LABEL, 1.0)
    measured("distance", bias.distance)
    measured("floor", bias.floor)
    assert bias.distance <= most_energy_distance(MIXTURE.sample(jax.random.key(3), 400, LABEL), N)


@pytest.mark.release
def test_scale_three_is_not_the_tilted_target_and_says_so(measured):
    """CFG at 3 is not p(x) p(y|x)^3: its bias is reported, far above the floor."""
    bias = MIXTURE.bias(jax.random.key(0), draw(gj.Reverse(gj.CFG(MIXTURE, NULL, 3.0), gj.DDIM(1.0))), LABEL, 3.0)
    measured("distance", bias.distance)
    measured("floor", bias.floor)
    assert bias.distance > 10 * bias.floor
    assert "above" in str(bias)


@pytest.mark.release
def test_exact_draws_follow_their_densities():
    """Mean of any function under the tilted target, by rejection and by importance sampling from p(x)."""
    for scale in (0.5, 1.0, 3.0):
        exact = MIXTURE.sample_tilted(jax.random.key(1), N, LABEL, scale)
        x = MIXTURE.sample(jax.random.key(2), N)
        log_w = jax.vmap(lambda x, w=scale: MIXTURE.log_tilted(x, LABEL, w) - MIXTURE.log_prob(x))(x)
        w = jax.nn.softmax(log_w)
        np.testing.assert_allclose(exact.mean(0), w @ x, atol=0.05)
        np.testing.assert_allclose((exact**2).mean(0), w @ x**2, atol=0.12)


@pytest.mark.release
@pytest.mark.usefixtures("x64")
def test_mixture_is_the_gradient_of_its_own_density():
    """Tweedie: the denoiser from the score of `log_prob`; Bayes: the classifier from three densities."""
    x = jnp.array([0.3, -0.4])
    for level in (gj.Cosine()(0.6), gj.VE()(2.0)):
        for label in (jnp.array(0), jnp.array(1), jnp.array(NULL)):
            score = jax.grad(MIXTURE.log_prob)(x, level, label)
            tweedie = (x + level.sigma**2 * score) / level.alpha
            np.testing.assert_allclose(MIXTURE(x, level, label, (), None)[0].x0, tweedie, atol=1e-6)
        prior = np.array([0.4, 0.4, 0.2])
        for label in range(3):
            bayes = np.log(prior[label]) + MIXTURE.log_prob(x, level, label) - MIXTURE.log_prob(x, level)
            np.testing.assert_allclose(log_posterior(x, level, label), bayes, atol=1e-6)
        total = sum(np.exp(log_posterior(x, level, label)) for label in range(3))
        np.testing.assert_allclose(total, 1, rtol=1e-6)


@pytest.mark.release
def test_gaussian_is_a_mixture_of_one_and_its_posterior_is_bayes():
    x, level = jnp.array([0.3, -0.4]), gj.Cosine()(0.6)
    one = gj.GaussianMixture(jnp.array([[1.0, 2.0]]), 0.7, jnp.ones(1))
    with pytest.raises(gj.Refused, match=r"a covariance .d, d., got .2,. and .2,."):
        Gaussian(jnp.array([1.0, 2.0]), jnp.array([0.49, 0.49]))
    gaussian = Gaussian(jnp.array([1.0, 2.0]), 0.49 * jnp.eye(2))
    np.testing.assert_allclose(gaussian(x, level, None, (), None)[0].x0, one(x, level, None, (), None)[0].x0, atol=1e-5)
    np.testing.assert_allclose(gaussian.log_prob(x, level), one.log_prob(x, level), atol=1e-5)
    operator, y, std = jnp.array([[1.0, -2.0]]), jnp.array([0.5]), 0.3
    posterior = gaussian.condition(operator, y, std)

    def log_joint(x):
        return gaussian.log_prob(x) - 0.5 * jnp.sum((y - operator @ x) ** 2) / std**2

    # a Gaussian posterior: its mode is the mean, its curvature the inverse covariance
    np.testing.assert_allclose(jax.grad(log_joint)(posterior.mean), 0, atol=1e-3)
    np.testing.assert_allclose(-jax.hessian(log_joint)(x) @ posterior.covariance, jnp.eye(2), atol=1e-4)


def test_energy_distance_of_shifted_points():
    """Two points against two points, by hand: E|X - Y| = (1 + 1 + 2 + 0) / 4, within sets (0 + 1) / 2 each."""
    x, y = jnp.array([[0.0], [1.0]]), jnp.array([[1.0], [2.0]])
    np.testing.assert_allclose(energy_distance(x, y), 2 * 1.0 - 0.5 - 0.5, atol=1e-6)
    np.testing.assert_allclose(energy_distance(x, x), 0, atol=1e-6)
