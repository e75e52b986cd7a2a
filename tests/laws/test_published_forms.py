"""The published form of methods away from their special cases: numbers by hand, exact models, other methods' limits.

Each test fails if one constant, one sign or one norm of the method is another than in its paper.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import guidance_jax as gj
from guidance_jax.embeddings import DiffusionLM
from guidance_jax.guidance import FDG, MAMBOG, AdaptiveGuidance, DynamicClip, DynamicNegative
from guidance_jax.kernels import Corrector, RectifiedCFGPlusPlus
from guidance_jax.oracles import Gaussian
from guidance_jax.particles import ParticleGuidance
from guidance_jax.text import PPLM, Contrastive, LanguageModel, LeftToRight
from guidance_jax.zoo.layers import blur_queries
from tests.table import MIXTURE, NULL, SCHEDULE, UNCONDITIONAL

FLOW = gj.RectifiedFlow()
KEY = jax.random.key(0)


def outputs(c, u, how):
    """A model that returns c for a label and u for the null label, in the language of `how`."""
    return gj.Function(lambda x, level, cond: jnp.where(cond == NULL, jnp.asarray(u), jnp.asarray(c)), how)


def predict(model, x, level, label=1):
    x = jnp.asarray(x)
    return model(x, level, jnp.array(label), model.init(x), KEY)[0]


@jax.jit
def one_step(kernel, x, t, s, key=KEY):
    """x_s from x_t by one transition."""
    return kernel(kernel.init(x), t, s, jnp.array(1), key).x


# ---- contrasts ----------------------------------------------------------------------------------------------------


def test_mambog_damps_by_the_size_of_the_update_relative_to_the_unconditional_velocity():
    """By hand: |v_c - v_u| / |v_u| = 2.5 / 5, so a damping of 2 ln 2 halves the strength: w = 1 + (5 - 1) / 2 = 3.

    The square of the ratio would give w = 3.83, the ratio to |v_c| = 3.35 would give w = 2.42.
    """
    u, c = [3.0, 4.0], [3.0, 1.5]
    model = MAMBOG(outputs(c, u, gj.parameterizations.velocity), NULL, 5.0, damping=2 * np.log(2))
    pred = predict(model, [0.3, -0.2], FLOW(0.4))
    np.testing.assert_allclose(pred.eps - pred.x0, [3.0, 4.0 - 3 * 2.5], atol=1e-5)


@pytest.mark.parametrize("agree", ["eps", "x0"])
def test_adaptive_guidance_compares_the_two_noises(agree):
    """Where the noises agree (cosine .9992) and the clean estimates point apart, it stops; the other way, it does not.

    With d = .02, one pair is (1, d) and (1, -d). The point x is chosen so that the other pair is (0, -d) and (0, d).
    """
    how = getattr(gj.parameterizations, agree)
    inner = outputs([1.0, 0.02], [1.0, -0.02], how)
    model, state = AdaptiveGuidance(inner, NULL, 4.0, threshold=0.99), None
    for t in (0.6, 0.55, 0.5, 0.45, 0.4):
        level = SCHEDULE(t)
        x = jnp.array([level.sigma if agree == "eps" else level.alpha, 0.0])
        if state is None:  # agreement counts once they have differed, as if they had at a noisier level
            states, asked = model.init(x)
            state = states, asked._replace(differed=jnp.array(True))
        pred, state = model(x, level, jnp.array(1), state, KEY)
    guided, alone = predict(gj.CFG(inner, NULL, 4.0), x, level), predict(inner, x, level)
    assert np.abs(guided.x0 - alone.x0).max() > 0.05
    np.testing.assert_allclose(pred.x0, (alone if agree == "eps" else guided).x0, atol=1e-6)


def test_dynamic_clip_cuts_at_its_percentile():
    """By hand: of |x0| = 0, 1, 2, 3, 4 the third quartile is 3, so -4 is cut to -3 and everything divided by 3."""
    model = gj.Function(lambda x, level, cond: jnp.array([-4.0, 0.0, 1.0, 2.0, 3.0]))
    got = predict(DynamicClip(model, 75.0, 1.0), np.zeros(5), SCHEDULE(0.5)).x0
    np.testing.assert_allclose(got, [-1, 0, 1 / 3, 2 / 3, 1], atol=1e-6)
    # a percentile within the range of the data: the values beyond the range are cut, the others are as they were
    got = predict(DynamicClip(model, 75.0, 3.5), np.zeros(5), SCHEDULE(0.5)).x0
    np.testing.assert_allclose(got, [-3.5, 0, 1, 2, 3], atol=1e-6)


@pytest.mark.release
def test_the_posterior_of_dynamic_negative_guidance_is_that_of_the_points_passed():
    """Along a chain of 240 unguided steps, p(n | x_t) by Bayes' rule follows the exact classifier.

    The prior is the model's own p(class 1) = .4. The exact posteriors at the end are nearly 0 and 1.
    """
    kernel = gj.Reverse(DynamicNegative(MIXTURE, NULL, 0.0, prior=0.4), gj.DDIM(1.0))
    levels = gj.schedules.log_snr_uniform(SCHEDULE, 250, lo=0.05).at(slice(None, 241))

    @jax.jit
    @jax.vmap
    def run(key):
        first, rest = jax.random.split(key)
        start = kernel.start(first, levels, (2,))
        carry = gj.sample(rest, kernel, levels, start, jnp.array(1), record=lambda carry: carry)[1]
        # the posterior in memory is that of the point before the last transition
        return jnp.exp(carry.model_state[1].log_posterior[1:]), carry.x[:-1]

    tracked, x = run(gj.keys(1, 32))
    exact = jax.vmap(jax.vmap(lambda x, level: jnp.exp(MIXTURE.log_posterior(x, level, 1))), (0, None))(
        x, levels.at(slice(1, -1))
    )
    assert np.std(exact[:, -1]) > 0.3
    assert np.mean(np.abs(tracked - exact)) < 0.03


def test_the_filter_of_fdg_keeps_a_slope():
    """By hand: means of pairs of 1, 3, 5, 7 are 2 and 6; half way between their centres are 3 and 5, as in the slope.

    So the inner pixels are all coarse. At the edges, 1 = 2 - 1 and 7 = 6 + 1, the detail is 1.
    """
    slope = jnp.broadcast_to(jnp.array([1.0, 3.0, 5.0, 7.0])[:, None, None], (4, 4, 1))
    for difference, axes in ((slope, (0, 1, 2)), (slope, (1, 0, 2))):
        difference = difference.transpose(axes)
        model = FDG(outputs(difference, 0 * difference, gj.parameterizations.x0), NULL, 10.0, low=2.0)
        got = predict(model, np.zeros((4, 4, 1)), SCHEDULE(0.5)).x0.transpose(axes)
        by_hand = np.array([2 * 2 - 10, 2 * 3, 2 * 5, 2 * 6 + 10])
        np.testing.assert_allclose(got, np.broadcast_to(by_hand[:, None, None], (4, 4, 1)), atol=1e-4)


# ---- tokens and text ----------------------------------------------------------------------------------------------


def tokens(p):
    """A model of one token with the probabilities p, whatever it sees."""
    return gj.TokenNetwork(
        jnp.log(jnp.array([p])), lambda params, x, t, cond: params, gj.Absorbing(len(p)), batched=False
    )


def test_contrastive_decoding_is_the_ratio_of_expert_and_amateur_among_the_plausible():
    """By hand at scale 2, p_expert^2 / p_amateur: (1/2)^2 / (1/4) = 1, .3^2 / .5 = .18, .2^2 / .25 = .16.

    With plausible = .5 the last token, of less than half the largest probability, is left out.
    """
    expert, amateur = tokens([0.5, 0.3, 0.2]), tokens([0.25, 0.5, 0.25])
    for plausible, weights in ((0.0, [1.0, 0.18, 0.16]), (0.5, [1.0, 0.18, 0.0])):
        got = predict(Contrastive(expert, amateur, 2.0, plausible), np.array([3]), FLOW(0.5)).log_p[0]
        np.testing.assert_allclose(np.exp(got), np.array(weights) / sum(weights), atol=1e-5)


def test_the_steps_of_pplm_end_at_the_tilted_distribution():
    """The maximum of scale E_p[r] - kl KL(p || p_0) over all p is p_0 exp(scale r / kl), normalised (Gibbs).

    The cache of this model is its logits, so that the steps can reach every p.
    """
    p0, reward = np.array([0.5, 0.3, 0.2]), np.array([0.2, -0.4, 0.7])

    def apply(params, token, position, cache, cond):
        return params + jnp.sum(cache, (0, 1, 2)), jnp.zeros(1), cache

    def attribute(log_p, hidden, cond):
        return jnp.exp(log_p) @ reward

    model = LanguageModel(
        jnp.log(jnp.array(p0, jnp.float32)), apply, lambda n: (jnp.zeros((1, n, 1, 3)), jnp.zeros(1)), LeftToRight(3)
    )
    x, level = jnp.array([0, 1, 0]), gj.positions(3).at(1)
    for scale, kl in ((1.0, 0.5), (1.0, 2.0)):
        guided = PPLM(model, attribute, scale, rate=0.5, kl=kl, fusion=1.0, gamma=0.0, steps=600)
        found = np.exp(guided(x, level, None, model.init(x), None)[0].log_p)
        tilted = p0 * np.exp(scale * reward / kl)
        np.testing.assert_allclose(found, tilted / tilted.sum(), atol=1e-4)


def test_diffusion_lm_ascends_by_adagrad_which_remembers():
    """A linear classifier: the k-th step of Adagrad is rate / sqrt(k), so three are rate (1 + .7071 + .5774) = .22845.

    With a classifier that is not linear, the steps are those of optax.
    """
    t, s, x = SCHEDULE(0.6), SCHEDULE(0.5), jnp.array([[0.3, -0.7]])
    model, slope = gj.Function(lambda x, level, cond: 0 * x), jnp.array([[2.0, -0.1]])

    def linear(x, level, cond):
        return jnp.sum(slope * x)

    def curved(x, level, cond):
        return -jnp.sum((x - 0.4) ** 4)

    def reached(classifier, scale):
        kernel = DiffusionLM(model, gj.DDIM(1.0), classifier, scale, fluency=0.0, rate=0.1, steps=3)
        return one_step(kernel, x, t, s)

    start = reached(linear, 0.0)
    np.testing.assert_allclose(reached(linear, 1.0) - start, [[0.22845, -0.22845]], atol=1e-4)
    optimizer = optax.adagrad(0.1, initial_accumulator_value=0.0, eps=1e-20)
    state, moved = optimizer.init(start), start
    for _ in range(3):
        update, state = optimizer.update(jax.grad(lambda x: -curved(x, s, 1))(moved), state)
        moved = optax.apply_updates(moved, update)
    np.testing.assert_allclose(reached(curved, 1.0), moved, atol=1e-5)


# ---- kernels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("repeats", [2, 3])
def test_recur_goes_back_up_before_each_further_step(repeats):
    """Data at one point m, where a step of DDIM is exact: x_s = alpha_s m + sigma_s eps with eps a standard normal.

    Each way back up keeps rho = alpha_t sigma_s / (alpha_s sigma_t) of eps: the correlation of the first with the last.
    """
    n, t, s, m = 20_000, SCHEDULE(0.7), SCHEDULE(0.55), jnp.array([1.5, -2.0])
    kernel = gj.Recur(gj.Reverse(gj.Function(lambda x, level, cond: m), gj.DDIM()), repeats)
    eps = jax.random.normal(KEY, (n, 2))
    x = jax.vmap(lambda x, key: one_step(kernel, x, t, s, key))(t.alpha * m + t.sigma * eps, gj.keys(1, n))
    found = (np.asarray(x) - s.alpha * m) / s.sigma
    rho = t.alpha * s.sigma / (s.alpha * t.sigma)
    np.testing.assert_allclose(found.mean(0), 0, atol=5 / np.sqrt(n))
    np.testing.assert_allclose(found.std(0), 1, atol=5 / np.sqrt(2 * n))
    np.testing.assert_allclose(np.mean(found * eps), rho ** (repeats - 1), atol=5 / np.sqrt(2 * n))


def test_known_entries_of_inpaint_are_noised_to_each_level():
    """N(alpha_s y, sigma_s^2) after each step, and y itself at the clean level."""
    n, levels, y = 20_000, SCHEDULE.levels(4), jnp.array([1.5, 0.0])
    kernel = gj.Inpaint(gj.Reverse(UNCONDITIONAL, gj.DDIM(1.0)), jnp.array([1, 0]), lambda cond: y)

    @jax.jit
    @jax.vmap
    def run(key):
        first, rest = jax.random.split(key)
        start = kernel.start(first, levels, (2,))
        return gj.sample(rest, kernel, levels, start, jnp.array(0), record=lambda carry: carry.x[0])[1]

    known, after = np.asarray(run(gj.keys(0, n))), levels.at(slice(1, None))
    np.testing.assert_allclose(known.mean(0), after.alpha * y[0], atol=5 / np.sqrt(n))
    np.testing.assert_allclose(known.std(0), after.sigma, atol=5 / np.sqrt(2 * n))


@pytest.mark.release
def test_many_steps_of_the_corrector_reach_the_exact_marginal():
    """150 Langevin steps from where DDIM ends: N(alpha m, alpha^2 C + sigma^2), of which a large step misses 3 %."""
    n, t, s = 4000, SCHEDULE(0.7), SCHEDULE(0.5)
    target = Gaussian(jnp.array([0.5, -1.0]), jnp.array([[0.6, 0.2], [0.2, 0.3]]))
    kernel = Corrector(gj.Reverse(target, gj.DDIM()), target, 0.1, steps=150)
    x = jax.vmap(lambda key: one_step(kernel, jnp.zeros(2), t, s, key))(gj.keys(0, n))
    covariance = s.alpha**2 * np.asarray(target.covariance) + s.sigma**2 * np.eye(2)
    np.testing.assert_allclose(np.mean(x, 0), s.alpha * target.mean, atol=5 * np.sqrt(covariance.max() / n))
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=(0.03 + 5 * np.sqrt(2 / n)) * covariance.max())


def test_rectified_cfg_plus_plus_takes_the_difference_half_a_step_ahead():
    """By hand from t = .8 to s = .4 on rectified flow, so that t' = .6, with v_c = (1, 2) and scale 3.

    The difference v_c - v_u is (t', x'), the clock and the second entry of the point. With x = (0, 1), x' = 1 - .2 * 2
    = .6, so x_s = (0 - .4 (1 + 3 * .6), 1 - .4 (2 + 3 * .6)) = (-1.12, -.52).
    """
    v = jnp.array([1.0, 2.0])

    def velocity(x, level, cond):
        return jnp.where(cond == NULL, v - jnp.stack([level.t, x[1]]), v)

    kernel = RectifiedCFGPlusPlus(gj.Function(velocity, gj.parameterizations.velocity), NULL, 3.0, FLOW)
    x = one_step(kernel, jnp.array([0.0, 1.0]), FLOW(jnp.float32(0.8)), FLOW(jnp.float32(0.4)))
    np.testing.assert_allclose(x, [-1.12, -0.52], atol=1e-5)


def test_particle_guidance_repels_by_a_width_of_the_median_over_log_n():
    """By hand: two particles at a = .5 and -.5 have h = (2 a)^2 / ln 2, so exp(-(2 a)^2 / h) = 1 / 2.

    The gradient of log Phi is then 2 * 2 a / h / 2 = ln 2 / (2 a) = .6931, away from the other. Four particles at equal
    distances have exp(-d^2 / h) = 1 / 4: each is pushed by the sum of 2 (x_i - x_j) / (4 h).
    """
    t, clean, model = SCHEDULE(0.5), SCHEDULE(0.0), gj.Function(lambda x, level, cond: 0 * x)
    kernel = ParticleGuidance(model, gj.DDIM(), 0.3)
    unit = 0.3 * t.sigma**2 / t.alpha
    x = one_step(kernel, jnp.array([[0.5], [-0.5]]), t, clean)
    np.testing.assert_allclose(x, unit * np.array([[0.6931], [-0.6931]]), atol=1e-4)
    # the corners of a simplex: d^2 = 2, h = 2 / ln 4 = 1.4427, and 2 / (4 h) = .34657
    x = one_step(kernel, jnp.eye(4), t, clean)
    np.testing.assert_allclose(x, unit * 0.34657 * (4 * np.eye(4) - 1), atol=1e-4)


# ---- networks and schedules ---------------------------------------------------------------------------------------


def test_the_blur_of_queries_has_the_standard_deviation_that_it_is_given():
    """The answer to a single bright pixel spreads by `std` pixels along both axes; a constant stays as it is."""
    sides, std = (31, 41), 2.0
    bright = jnp.zeros(sides).at[15, 20].set(1.0).reshape(-1, 1, 1)
    out = np.asarray(blur_queries(bright, sides, std)).reshape(sides)
    np.testing.assert_allclose(out.sum(), 1, atol=1e-5)
    for axis, centre in ((0, 15), (1, 20)):
        gap = np.arange(sides[axis]) - centre
        np.testing.assert_allclose(np.sqrt(out.sum(1 - axis) @ gap**2), std, rtol=1e-3)
    np.testing.assert_allclose(blur_queries(jnp.ones((31 * 41, 1, 1)), sides, std), 1, atol=1e-5)


@pytest.mark.usefixtures("x64")
def test_linear_vp_is_the_integral_of_its_rate_and_the_limit_of_ddpm_s_betas():
    """alpha^2 = exp(-the area under a line from .1 to 20); at 1000 steps nearly OpenAI's table, beta = 1e-4 to .02."""
    schedule, t = gj.schedules.LinearVP(), np.linspace(0, 1, 11)
    fine = np.linspace(0, 1, 10_001)
    rate = np.interp(fine, [0, 1], [0.1, 20.0])
    area = np.concatenate([[0], np.cumsum((rate[1:] + rate[:-1]) / 2 * 1e-4)])[::1000]
    levels = schedule(jnp.asarray(t))
    np.testing.assert_allclose(levels.alpha**2, np.exp(-area), rtol=1e-6)
    np.testing.assert_allclose(levels.alpha**2 + levels.sigma**2, 1, atol=1e-12)
    np.testing.assert_allclose(schedule.at_log_snr(-2 * jnp.log(levels.ratio[1:])), t[1:], rtol=1e-6)
    table = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    np.testing.assert_allclose(np.log(levels.alpha[1:] ** 2), np.log(table[99::100]), rtol=0.01)
