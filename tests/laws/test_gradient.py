"""Gradient methods: exact posteriors where they are promised, every method as a case of another, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import guidance_jax as gj
from guidance_jax.guidance import (
    LGD,
    MPGD,
    TFG,
    CleanClassifier,
    GaussianLikelihood,
    Reuse,
    Similarity,
    Universal,
)
from guidance_jax.inverse import DPS, MMPS, TMPD, PiGDM
from guidance_jax.kernels import Corrector, RectifiedCFGPlusPlus, Split
from guidance_jax.kernels.reverse import Carry
from guidance_jax.operators import Blur, Downsample, Linear, Mask
from guidance_jax.oracles import Gaussian
from guidance_jax.oracles.energy import energy_distance
from tests.laws.test_guidance import KEY, LABEL, LEVELS, X, same, see
from tests.table import (
    MIXTURE,
    NULL,
    SCHEDULE,
    UNCONDITIONAL,
    counting_log_posterior,
    line,
    log_clean,
    log_posterior,
    point,
    seen,
)

pytestmark = pytest.mark.usefixtures("x64")
PRIOR = Gaussian(jnp.array([0.5, -1.0, 0.2]), jnp.array([[0.5, 0.2, 0.1], [0.2, 0.3, -0.1], [0.1, -0.1, 0.4]]))
MATRIX, Y, STD = jnp.array([[1.0, 0.5, -0.3], [0.2, -0.7, 0.9]]), jnp.array([0.4, -0.2]), 0.3
POINT = np.array([0.3, -0.4, 0.8])


def matrix(x):
    return MATRIX.astype(x.dtype) @ x


@pytest.mark.parametrize("level", LEVELS)
def test_mmps_is_the_exact_posterior_of_a_gaussian(level):
    """At every level, not only at the end, against the closed form."""
    got = see(MMPS(PRIOR, matrix, STD), level, x=POINT, label=Y)
    same(got, see(PRIOR.condition(MATRIX, Y, STD), level, x=POINT, label=None), atol=1e-5)


@pytest.mark.parametrize("level", LEVELS)
def test_pigdm_is_exact_for_data_of_its_variance(level):
    prior = Gaussian(jnp.array([0.5, -1.0, 0.2]), 0.7 * jnp.eye(3))
    got = see(PiGDM(prior, matrix, STD, prior=0.7), level, x=POINT, label=Y)
    same(got, see(prior.condition(MATRIX, Y, STD), level, x=POINT, label=None), atol=1e-5)


@pytest.mark.parametrize("level", LEVELS)
def test_tmpd_is_exact_for_independent_measurements(level):
    prior = Gaussian(jnp.array([0.5, -1.0, 0.2]), jnp.diag(jnp.array([0.5, 0.3, 0.4])))
    rows = jnp.eye(3)[:2]
    got = see(TMPD(prior, lambda x: x[:2], STD), level, x=POINT, label=Y)
    same(got, see(prior.condition(rows, Y, STD), level, x=POINT, label=None), atol=1e-5)


@pytest.mark.parametrize("level", LEVELS)
def test_without_uncertainty_pigdm_is_the_plain_likelihood(level):
    """Covariance 0: the likelihood of the clean estimate, `Reconstruction`."""
    likelihood = GaussianLikelihood(matrix, STD)
    got = see(PiGDM(PRIOR, matrix, STD, prior=0.0), level, x=POINT, label=Y)
    same(got, see(gj.Reconstruction(PRIOR, likelihood), level, x=POINT, label=Y), atol=1e-5)


@pytest.mark.release
def test_mmps_samples_the_exact_posterior_and_dps_does_not(measured):
    """20,000 samples, 200 steps: mean and covariance of the closed form; DPS misses the covariance."""
    n, levels, exact = 20_000, SCHEDULE.levels(200), PRIOR.condition(MATRIX, Y, STD)
    y = jnp.broadcast_to(Y, (n, 2))

    def error(kernel):
        x = gj.generate(gj.keys(2, n), kernel, levels, (3,), y)
        return np.abs(np.mean(x, 0) - exact.mean).max(), np.abs(np.cov(x.T) - exact.covariance).max()

    mean, covariance = error(gj.Reverse(MMPS(PRIOR, matrix, STD), gj.DDIM(1.0)))
    measured("mean", mean)
    measured("covariance", covariance)
    assert mean < 5 * np.sqrt(0.5 / n)
    assert covariance < 0.01
    assert error(DPS(PRIOR, gj.DDIM(1.0), matrix, 0.3))[1] > 0.05


@pytest.mark.release
@pytest.mark.parametrize("level", LEVELS)
def test_points_of_training_free_guidance(level):
    same(
        see(TFG.mpgd(UNCONDITIONAL, log_clean, 0.3), level),
        see(MPGD(UNCONDITIONAL, log_clean, 0.3), level),
    )
    one = TFG(UNCONDITIONAL, log_clean, 0.2, 0.3, steps=1)
    same(see(TFG.universal(UNCONDITIONAL, log_clean, 0.2, 0.3, 1), level), see(one, level))
    still = TFG.lgd(UNCONDITIONAL, log_clean, 0.2, 0.0, 4)
    same(see(still, level), see(TFG.dps(UNCONDITIONAL, log_clean, 0.2), level))
    smooth = TFG.lgd(UNCONDITIONAL, log_clean, 0.2, 0.5, 4)
    assert np.abs(see(smooth, level).x0 - see(still, level).x0).max() > 1e-4


def test_dps_is_the_point_of_training_free_guidance_up_to_its_units():
    """x_s moves by rho alpha_s / alpha_t grad in TFG, by scale grad in DPS; f = -|y - A x0|."""
    t, s = SCHEDULE(0.7), SCHEDULE(0.55)
    carry = Carry(jnp.asarray(POINT), (), ())

    def f(x0, level, y):
        return -jnp.linalg.norm(y - matrix(x0))

    dps = DPS(PRIOR, gj.DDIM(), matrix, 0.4)(carry, t, s, Y, KEY).x
    tfg = gj.Reverse(TFG.dps(PRIOR, f, 0.4 * t.alpha / s.alpha), gj.DDIM())(carry, t, s, Y, KEY).x
    np.testing.assert_allclose(dps, tfg, atol=1e-6)


@pytest.mark.release
@pytest.mark.parametrize("level", LEVELS)
def test_special_cases_of_the_likelihood_guides(level):
    plain = see(gj.Reconstruction(UNCONDITIONAL, log_clean, 0.7), level)
    same(see(LGD(UNCONDITIONAL, log_clean, 0.7, spread=0.0), level), plain)
    same(
        see(LGD(UNCONDITIONAL, log_clean, 0.7, draws=6, microbatch=2), level),
        see(LGD(UNCONDITIONAL, log_clean, 0.7, draws=6), level),
    )
    same(see(Universal(UNCONDITIONAL, log_clean, 0.7, steps=3, rate=0.0), level), plain)
    guide = gj.Classifier(UNCONDITIONAL, log_posterior, 2.0)
    same(see(Reuse(guide, 1), level), see(guide, level))


def test_smoothing_is_the_smoothed_likelihood():
    """LGD's Monte Carlo average of a Gaussian likelihood is the wider Gaussian's gradient."""
    level, wide = LEVELS[0], 0.3
    likelihood = GaussianLikelihood(lambda x: x, 0.5)
    y = jnp.asarray([0.1, 0.9, -0.3])
    got = see(LGD(PRIOR, likelihood, 1.0, draws=200_000, spread=wide), level, x=POINT, label=y)
    want = see(gj.Reconstruction(PRIOR, GaussianLikelihood(lambda x: x, np.hypot(0.5, wide))), level, POINT, y)
    np.testing.assert_allclose(got.x0, want.x0, atol=0.01)


@pytest.mark.release
def test_gradients_are_reused():
    """12 steps, a gradient every fourth: 3 evaluations, under vmap; inside a window counted from its start."""
    log_prob, count = counting_log_posterior()
    levels = SCHEDULE.levels(12)
    inside = int(np.sum((np.asarray(levels.ratio[:-1]) > 0.1) & (np.asarray(levels.ratio[:-1]) <= 1.0)))
    for scale, want in ((1.0, 3), (gj.Window(1.0, 0.1, 1.0), -(-inside // 4))):
        count["runs"] = 0
        kernel = gj.Reverse(Reuse(gj.Classifier(UNCONDITIONAL, log_prob, scale), 4), gj.DDIM())
        jax.block_until_ready(gj.generate(gj.keys(0, 2), kernel, levels, (2,), jnp.array([0, 1])))
        jax.effects_barrier()
        assert count["runs"] == want


def test_similarity_guides_towards_the_embedding_and_no_further():
    encode = Similarity(lambda x0: x0, lambda y: y, 0.5)
    y = jnp.array([0.3, 0.4])
    np.testing.assert_allclose(encode.log_prob(0.7 * y, LEVELS[0], y), 1 / 0.5, rtol=1e-6)
    np.testing.assert_allclose(encode.score(0.7 * y, LEVELS[0], y), 0, atol=1e-6)
    across = encode.score(jnp.array([1.0, 0.0]), LEVELS[0], y)
    np.testing.assert_allclose(across, [0, 0.8 / 0.5], atol=1e-6)  # the cosine's derivative at angle 0 is the sine
    sphere = Similarity(lambda x0: x0, lambda y: y, 1.0, spherical=True)
    angle = np.arccos(0.6)
    np.testing.assert_allclose(
        sphere.log_prob(jnp.array([1.0, 0.0]), LEVELS[0], y), -2 * np.arcsin(np.sin(angle / 2)) ** 2, rtol=1e-6
    )


def test_a_clean_classifier_is_its_own_log_softmax():
    logits = jnp.array([0.3, 2.0, -1.0])
    guide = CleanClassifier(logits, lambda params, x0: params * x0.sum())
    np.testing.assert_allclose(
        guide.log_prob(jnp.ones(2), LEVELS[0], 1), 4 - np.log(np.exp(2 * np.asarray(logits)).sum()), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("operator", "shape"),
    [
        (Mask(jnp.arange(16).reshape(4, 4, 1) % 3 == 0), (4, 4, 2)),
        (Blur.gaussian(0.8, 3), (5, 6, 2)),
        (Blur(jnp.arange(9.0).reshape(3, 3)), (5, 6, 2)),
        (Downsample(2), (4, 6, 2)),
        (Linear(matrix), (3,)),
        (Linear(matrix, lambda y: MATRIX.T @ y), (3,)),
    ],
)
def test_adjoints(operator, shape):
    gj.operators.check_adjoint(operator, shape)


def test_operators_are_what_they_say():
    x = jax.random.normal(KEY, (4, 4, 1))
    np.testing.assert_allclose(Downsample(2)(x)[0, 1, 0], x[:2, 2:, 0].mean(), rtol=1e-6)
    np.testing.assert_allclose(Blur.gaussian(0.7, 3)(jnp.ones((5, 5, 1)))[2, 2, 0], 1, rtol=1e-6)
    impulse = jnp.zeros((5, 5, 1)).at[2, 2, 0].set(1.0)
    np.testing.assert_allclose(Blur(jnp.arange(9.0).reshape(3, 3))(impulse)[1:4, 1:4, 0], np.arange(9).reshape(3, 3))


REVERSE = gj.Reverse(UNCONDITIONAL, gj.DDIM(0.5))


@pytest.mark.parametrize(
    ("kernel", "plain"),
    [
        (DPS(UNCONDITIONAL, gj.DDIM(0.5), line, 0.0, seen), REVERSE),
        (Split(UNCONDITIONAL, gj.DDIM(0.5), log_posterior, 0.0), REVERSE),
        (
            Split(UNCONDITIONAL, gj.Heun(), log_posterior, 0.0, strang=True),
            gj.Reverse(UNCONDITIONAL, gj.Heun()),
        ),
        (RectifiedCFGPlusPlus(MIXTURE, NULL, 0.0, SCHEDULE), gj.Reverse(MIXTURE, gj.DDIM())),
    ],
)
def test_kernels_at_zero_strength_are_the_plain_one(kernel, plain):
    levels = SCHEDULE.levels(10)
    got, want = (gj.sample(KEY, k, levels, jnp.asarray(X), LABEL).x for k in (kernel, plain))
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_kernels_that_wrap_a_kernel_at_zero_strength():
    """They split the key first: the inner kernel with its own part of it."""
    t, s = SCHEDULE(0.7), SCHEDULE(0.55)
    first = jax.random.split(KEY)[0]
    want = REVERSE(REVERSE.init(jnp.asarray(X)), t, s, LABEL, first).x
    for kernel in (gj.Inpaint(REVERSE, jnp.zeros(2), point), Corrector(REVERSE, MIXTURE, 0.0)):
        got = kernel(kernel.init(jnp.asarray(X)), t, s, LABEL, KEY).x
        np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.release
def test_rectified_guidance_is_the_same_on_every_schedule():
    """The same ratios on three schedules: the same path, up to the length that a schedule gives to x."""
    ratios, ends = jnp.linspace(6.0, 0.3, 8) ** 1.5, []
    for schedule in (gj.RectifiedFlow(), gj.Cosine(), gj.VE()):
        levels = schedule.by_ratio(ratios)
        x = (levels.alpha[0] + levels.sigma[0]) * jnp.asarray(X)
        ends.append(gj.sample(KEY, RectifiedCFGPlusPlus(MIXTURE, NULL, 1.5, schedule), levels, x, LABEL).x)
    np.testing.assert_allclose(ends[1], ends[0], atol=1e-4)
    np.testing.assert_allclose(ends[2], ends[0], atol=1e-4)
    plain = gj.sample(KEY, gj.Reverse(MIXTURE, gj.DDIM()), levels, x, LABEL).x
    assert np.abs(ends[2] - plain).max() > 0.01


def test_inpainting_keeps_what_is_known():
    kernel = gj.Recur(gj.Inpaint(REVERSE, jnp.array([1, 0]), point), 2)
    x = gj.generate(gj.keys(0, 4), kernel, SCHEDULE.levels(10), (2,), jnp.array([0, 1, 2, 0]))
    np.testing.assert_allclose(x[:, 0], [0.5, 0.3, 0.1, 0.5], atol=1e-6)
    assert np.std(x[:, 1]) > 0.1


@pytest.mark.release
def test_splitting_converges_to_the_guided_ode():
    exact = gj.Reverse(gj.Classifier(UNCONDITIONAL, log_posterior, 2.0), gj.Heun())

    def end(kernel, steps):
        levels = SCHEDULE(jnp.linspace(0.9, 0.1, steps + 1))
        return np.asarray(jax.jit(lambda k: gj.sample(KEY, k, levels, jnp.asarray(X), LABEL).x)(kernel))

    truth, errors = end(exact, 10_000), {}
    for strang in (False, True):
        split = Split(UNCONDITIONAL, gj.Heun(), log_posterior, 2.0, strang)
        errors[strang] = coarse, fine = [np.linalg.norm(end(split, n) - truth) for n in (96, 192)]
        assert abs(np.log2(coarse / fine) - 1) < 0.25
    assert errors[True][1] < 0.5 * errors[False][1]


@pytest.mark.release
def test_classifier_free_guidance_is_a_predictor_corrector(measured):
    """Bradley & Nakkiran's theorem: DDPM with CFG(w) = DDIM on the conditional + Langevin on CFG(2 w - 1)."""
    n, levels, w = 10_000, SCHEDULE.levels(300), 2.0
    pair = Corrector(gj.Reverse(MIXTURE, gj.DDIM()), gj.CFG(MIXTURE, NULL, 2 * w - 1))
    labels = jnp.full(n, 1)

    def draw(kernel, seed):
        return np.asarray(gj.generate(gj.keys(seed, n), kernel, levels, (2,), labels))

    guided = gj.Reverse(gj.CFG(MIXTURE, NULL, w), gj.DDIM(1.0))
    one, other = draw(guided, 0), draw(guided, 1)
    floor, got = energy_distance(one, other), energy_distance(one, draw(pair, 2))
    wrong = energy_distance(one, draw(Corrector(gj.Reverse(MIXTURE, gj.DDIM()), gj.CFG(MIXTURE, NULL, w)), 2))
    for what, value in {"at 2 w - 1": got, "floor": floor, "at w": wrong}.items():
        measured(what, float(value))
    assert got < 5e-4
    assert wrong > 3 * got


@pytest.mark.release
def test_a_corrector_leaves_an_exact_marginal_alone():
    n = 10_000
    kernel = Corrector(gj.Reverse(MIXTURE, gj.DDIM(1.0)), MIXTURE, 0.2, steps=2)
    x = gj.generate(gj.keys(0, n), kernel, SCHEDULE.levels(200), (2,), jnp.full(n, 1))
    assert energy_distance(MIXTURE.sample(jax.random.key(5), n, 1), np.asarray(x)) < 5e-4


# TFG moves the point by rho grad / alpha, the others keep x and move by scale sigma^2 / alpha grad: rho = scale sigma^2
@pytest.mark.release
@pytest.mark.parametrize("level", LEVELS)
def test_points_of_training_free_guidance_are_the_methods_of_their_papers(level):
    """The clean estimates of Universal (forward; backward) and of LGD, on the same noise."""
    scale, x = 0.2, jnp.asarray(X)
    rho = scale * level.sigma**2
    forward = see(TFG.universal(UNCONDITIONAL, log_clean, rho, 0.0, 3), level).x0
    np.testing.assert_allclose(
        forward, see(Universal(UNCONDITIONAL, log_clean, scale, rate=0.1, steps=0), level).x0, atol=1e-6
    )
    backward = see(TFG.universal(UNCONDITIONAL, log_clean, 0.0, 0.1, 3), level).x0
    np.testing.assert_allclose(
        backward, see(Universal(UNCONDITIONAL, log_clean, 0.0, rate=0.1, steps=3), level).x0, atol=1e-6
    )
    smooth = LGD(UNCONDITIONAL, log_clean, scale, draws=5, spread=0.4)
    noise = jax.random.split(KEY)[1]  # the part of its key that TFG draws with
    want = smooth(x, level, LABEL, smooth.init(x), noise)[0].x0
    np.testing.assert_allclose(see(TFG.lgd(UNCONDITIONAL, log_clean, rho, 0.4, 5), level).x0, want, atol=1e-6)


def test_freedom_is_a_step_in_sample_space_after_the_solver_s():
    """Yu et al. 2023, Algorithm 1: x_s = DDIM(x_t) + rho grad_{x_t} log f(x0(x_t)); the gradient by differences."""
    t, s, rho, x = SCHEDULE(0.7), SCHEDULE(0.55), 0.3, np.array([0.3, -0.4])

    def log_f(x):
        return float(log_clean(UNCONDITIONAL(jnp.asarray(x), t, LABEL, (), None)[0].x0, None, LABEL))

    g = np.array([(log_f(x + 1e-4 * e) - log_f(x - 1e-4 * e)) / 2e-4 for e in np.eye(2)])
    carry = Carry(jnp.asarray(x), (), ())
    plain = gj.Reverse(UNCONDITIONAL, gj.DDIM())(carry, t, s, LABEL, KEY).x
    guided = gj.Reverse(TFG.freedom(UNCONDITIONAL, log_clean, rho * t.alpha / s.alpha), gj.DDIM())(
        carry, t, s, LABEL, KEY
    )
    np.testing.assert_allclose(guided.x - plain, rho * g, atol=1e-4)
