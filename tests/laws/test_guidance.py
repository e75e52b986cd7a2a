"""Algebra between guidance methods, at one level, on the exact mixture in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import guidance_jax as gj
from guidance_jax.guidance import TCFG, CFGPlusPlus, DynamicClip, DynamicNegative, Rescale
from guidance_jax.inverse import MMPS
from guidance_jax.models.parameterizations import EDM
from guidance_jax.sample import strong
from tests.laws import first
from tests.table import GUIDANCE, MIXTURE, NULL, SCHEDULE, UNCONDITIONAL, log_posterior

pytestmark = pytest.mark.usefixtures("x64")
LEVELS = [gj.Cosine()(0.6), gj.VE()(3.0), gj.RectifiedFlow()(0.2)]
X, LABEL, KEY = np.array([0.3, -0.4]), jnp.array(1), jax.random.key(0)


@jax.jit
def predict(model, x, level, label):
    """A model is an argument: all its strengths, and all levels, are one program."""
    return model(x, level, label, model.init(x), KEY)[0]


def see(model, level, x=X, label=LABEL):
    return predict(jax.tree.map(strong, model), jnp.asarray(x), level, label)


def same(a, b, atol=1e-6):
    # the mixture's own numbers are float32
    np.testing.assert_allclose(a.x0, b.x0, atol=atol, rtol=1e-6)
    np.testing.assert_allclose(a.eps, b.eps, atol=atol, rtol=1e-6)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("cls", GUIDANCE)
def test_zero_strength_is_the_identity(cls, level):
    row = GUIDANCE[cls]
    same(see(row.make(row.off), level), see(row.identity(MIXTURE), level))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("cls", GUIDANCE)
def test_strength_changes_something(cls, level):
    """Guidance that a test could not tell from none is not tested."""
    row = GUIDANCE[cls]
    assert np.abs(see(row.make(row.strong), level).x0 - see(row.identity(MIXTURE), level).x0).max() > 1e-3


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("cls", [c for c, row in GUIDANCE.items() if row.keeps_x])
def test_x_is_kept(cls, level):
    pred = see(GUIDANCE[cls].make(0.7), level)
    np.testing.assert_allclose(level.noise(pred.x0, pred.eps), X, atol=1e-6)


@pytest.mark.parametrize("level", LEVELS)
def test_exact_classifier_at_one_is_the_conditional_model(level):
    same(see(gj.Classifier(UNCONDITIONAL, log_posterior, 1.0), level), see(MIXTURE, level))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("scale", [0.0, 0.4, 3.0, 10.0])
def test_cfg_is_classifier_guidance_with_the_exact_classifier(level, scale):
    same(
        see(gj.CFG(MIXTURE, NULL, scale), level),
        see(gj.Classifier(UNCONDITIONAL, log_posterior, scale), level),
        atol=1e-5,
    )


@pytest.mark.parametrize("level", LEVELS)
def test_cfg_at_its_ends(level):
    same(see(gj.CFG(MIXTURE, NULL, 1.0), level), see(MIXTURE, level))
    same(see(gj.CFG(MIXTURE, NULL, 0.0), level), see(UNCONDITIONAL, level))


def test_conventions():
    level = LEVELS[0]
    same(see(gj.CFG.from_weight(MIXTURE, NULL, 2.0), level), see(gj.CFG(MIXTURE, NULL, 3.0), level))
    c, u = see(MIXTURE, level), see(UNCONDITIONAL, level)
    np.testing.assert_allclose(see(gj.CFG.from_weight(MIXTURE, NULL, 2.0), level).x0, 3 * c.x0 - 2 * u.x0, atol=1e-6)
    np.testing.assert_allclose(
        see(gj.CFG.from_gamma(MIXTURE, NULL, 2.5), level).eps, -1.5 * u.eps + 2.5 * c.eps, atol=1e-6
    )


@pytest.mark.parametrize("level", LEVELS)
def test_autoguidance(level):
    same(see(gj.Autoguidance(MIXTURE, MIXTURE, 5.0), level), see(MIXTURE, level))
    same(see(gj.Autoguidance(MIXTURE, UNCONDITIONAL, 3.0), level), see(gj.CFG(MIXTURE, NULL, 3.0), level))


@pytest.mark.parametrize("level", LEVELS)
def test_rescale_restores_the_conditional_deviation(level):
    same(see(Rescale(MIXTURE, NULL, 4.0, 0.0), level), see(gj.CFG(MIXTURE, NULL, 4.0), level))
    full = see(Rescale(MIXTURE, NULL, 4.0, 1.0), level)
    np.testing.assert_allclose(jnp.std(full.eps), jnp.std(see(MIXTURE, level).eps), rtol=1e-5)


def test_rescale_of_a_constant_output_is_the_model():
    """Both deviations are 0, and the two conditions agree: there is nothing to guide or to rescale."""
    flat = gj.Function(lambda x, level, cond: jnp.full_like(x, 0.5), gj.parameterizations.eps)
    same(see(Rescale(flat, NULL, 4.0), LEVELS[0]), see(flat, LEVELS[0]))


def test_window_is_half_open_in_sigma_over_alpha():
    for ratio, inside in ((0.5, False), (0.500001, True), (2.0, True), (2.000001, False)):
        level = gj.VE()(ratio)
        for make, off in ((lambda w: gj.CFG(MIXTURE, NULL, w), 1.0), (GUIDANCE[gj.Classifier].make, 0.0)):
            same(see(make(gj.Window(4.0, 0.5, 2.0)), level), see(make(4.0 if inside else off), level))


def test_scale_may_be_per_class_and_a_function_of_the_level():
    table = gj.PerClass(jnp.array([1.0, 3.0, 5.0]))
    for label in range(3):
        got = see(gj.CFG(MIXTURE, NULL, table), LEVELS[0], label=jnp.array(label))
        same(got, see(gj.CFG(MIXTURE, NULL, 1.0 + 2 * label), LEVELS[0], label=jnp.array(label)))
    same(
        see(gj.CFG(MIXTURE, NULL, lambda level: 2 * level.sigma), LEVELS[1]), see(gj.CFG(MIXTURE, NULL, 6.0), LEVELS[1])
    )


def test_clips():
    level = LEVELS[0]
    assert np.abs(see(gj.Clip(MIXTURE, 0.3), level).x0).max() <= 0.3
    x0 = see(MIXTURE, level).x0
    largest = np.abs(x0).max()
    np.testing.assert_allclose(see(DynamicClip(MIXTURE, 100.0, 0.5), level).x0, 0.5 * x0 / largest, rtol=1e-6)


def in_language(how):
    """The exact model in the language of `how`."""

    def output(x, level, cond):
        pred = MIXTURE(x, level, cond, (), None)[0]
        return how.target(pred.x0, pred.eps, level)

    return gj.Function(output, how)


PARAMETERIZATIONS = [in_language(getattr(gj.parameterizations, n)) for n in ("eps", "x0", "v", "velocity", "score")]


@pytest.mark.release
@pytest.mark.parametrize("cls", first([gj.CFG, TCFG, gj.Classifier, MMPS, CFGPlusPlus, DynamicNegative], GUIDANCE))
def test_parameterization_does_not_matter(cls):
    """The same exact model, told in each language, guided: the same prediction, at three levels."""
    for model in PARAMETERIZATIONS:
        for level in LEVELS:
            want = see(GUIDANCE[cls].make(0.7), level)
            same(see(GUIDANCE[cls].make(0.7, model), level), want, atol=1e-5)


@pytest.mark.parametrize("level", LEVELS)
def test_edm_preconditioning_of_the_perfect_network_is_the_model(level):
    how = EDM(sigma_data=1.7)
    pred = see(MIXTURE, level)
    got = how.predict(how.target(pred.x0, pred.eps, level), jnp.asarray(X), level)
    same(got, pred)


def test_edm_preconditions_to_unit_variance():
    """Inputs and targets have variance 1 for data of variance sigma_data^2, at every level (Karras et al., B.6)."""
    how = EDM(sigma_data=0.5)
    keys = jax.random.split(KEY, 2)
    x0, eps = 0.5 * jax.random.normal(keys[0], (200_000,)), jax.random.normal(keys[1], (200_000,))
    for ratio in (0.02, 0.5, 30.0):
        level = gj.VE()(ratio)
        np.testing.assert_allclose(jnp.var(how.inputs(level.noise(x0, eps), level)[0]), 1, atol=0.02)
        np.testing.assert_allclose(jnp.var(how.target(x0, eps, level)), 1, atol=0.02)


@pytest.mark.release
def test_other_schedule():
    """A model that only knows the cosine clock, asked at a VE level of the same ratio, is the same model."""
    model = gj.OnSchedule(MIXTURE, SCHEDULE)
    level = gj.VE()(1.3)
    got, want = see(model, level), see(MIXTURE, level)
    same(got, want, atol=1e-5)
    exact = log_posterior(jnp.asarray(X), level, LABEL)

    guide, x = gj.OnSchedule(gj.core.as_guide(log_posterior), SCHEDULE), jnp.asarray(X)
    np.testing.assert_allclose(guide.log_prob(x, level, LABEL), exact, atol=1e-5)
    np.testing.assert_allclose(guide.score(x, level, LABEL), jax.grad(log_posterior)(x, level, LABEL), atol=1e-5)
