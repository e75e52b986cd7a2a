"""The implicit classifier against the exact one, and diagnostics against what can be counted by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import guidance_jax as gj
from guidance_jax.core import CLEAN
from guidance_jax.guidance import ImplicitClassifier, Reuse
from guidance_jax.metrics.calibration import fitting_power
from tests.laws.test_guidance import LEVELS, same, see
from tests.table import MIXTURE, NULL, SCHEDULE, UNCONDITIONAL, log_posterior

IMPLICIT = ImplicitClassifier(MIXTURE, NULL, gj.VE(), jnp.log(jnp.array([0.4, 0.4, 0.2])))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("level", LEVELS)
def test_guiding_by_the_implicit_classifier_is_cfg(level):
    for scale in (0.0, 1.0, 4.0):
        got = see(gj.Classifier(UNCONDITIONAL, IMPLICIT, scale), level)
        same(got, see(gj.CFG(MIXTURE, NULL, scale), level), atol=1e-5)


@pytest.mark.parametrize("level", [gj.Level(*map(jnp.float32, CLEAN)), *(gj.VE()(r) for r in (0.3, 1.0, 4.0))])
def test_the_implicit_classifier_is_the_exact_posterior(level):
    """In probability, at points of every class and between them; clean and noisy."""
    many = ImplicitClassifier(MIXTURE, NULL, gj.VE(), IMPLICIT.log_prior, points=60, draws=400)
    xs = jnp.array([[0.3, -0.4], [1.2, 0.5], [-1.0, -0.4], [0.5, 1.4]])
    got = jax.jit(jax.vmap(many.log_posterior, (0, None)))(level.alpha * xs, level)
    want = [[MIXTURE.log_posterior(level.alpha * x, level, k) for k in range(3)] for x in xs]
    np.testing.assert_allclose(np.exp(got), np.exp(want), atol=0.03)


@pytest.mark.slow
def test_guidance_bias_names_a_biased_method():
    levels = SCHEDULE.levels(100)
    fair = gj.diagnostics.guidance_bias(
        jax.random.key(1), MIXTURE, gj.Reverse(gj.CFG(MIXTURE, NULL, 1.0), gj.DDIM(1.0)), levels, 1, 1.0, n=2000
    )
    biased = gj.diagnostics.guidance_bias(
        jax.random.key(1), MIXTURE, gj.Reverse(gj.CFG(MIXTURE, NULL, 4.0), gj.DDIM(1.0)), levels, 1, 4.0, n=2000
    )
    assert fair.distance < 2 * fair.floor
    assert biased.distance > 5 * biased.floor


@pytest.mark.slow
def test_guidance_by_level_is_the_scale_times_the_ratio_of_scores():
    """Classifier guidance of scale w: |eps' - eps| = w sigma |grad log p|, at the points of the run."""
    levels = SCHEDULE.levels(6)
    guided = gj.Classifier(UNCONDITIONAL, log_posterior, 2.0)
    rows = gj.diagnostics.guidance_by_level(
        gj.keys(0, 1), guided, UNCONDITIONAL, gj.DDIM(), levels, (2,), jnp.array([1])
    )
    first = jax.random.split(gj.keys(0, 1)[0])[0]
    x, level = levels.sigma[0] * jax.random.normal(first, (2,)), levels.at(0)
    own = UNCONDITIONAL(x, level, 1, (), None)[0].eps
    push = 2.0 * level.sigma * jax.grad(log_posterior)(x, level, 1)
    np.testing.assert_allclose(rows[0].strength, jnp.linalg.norm(push) / jnp.linalg.norm(own), rtol=1e-4)
    np.testing.assert_allclose([row.ratio for row in rows], levels.ratio[:-1], rtol=1e-6)
    plain = gj.diagnostics.guidance_by_level(gj.keys(0, 2), UNCONDITIONAL, UNCONDITIONAL, gj.DDIM(), levels, (2,))
    np.testing.assert_allclose([row.strength for row in plain], 0, atol=1e-6)
    np.testing.assert_allclose([row.agreement for row in plain], 1, atol=1e-6)


def network(width):
    return gj.Network(
        jnp.zeros(width), lambda params, x, t, cond: 0.1 * x + 0 * cond, gj.parameterizations.v, batched=False
    )


@pytest.mark.slow
def test_the_ledger_counts_what_is_really_evaluated():
    model, weak = network(3), network(1)
    classifier = gj.NoisyClassifier((), lambda params, x, t: x.sum() * jnp.arange(3.0), batched=False)
    levels, label = SCHEDULE.levels(12), np.int32(1)
    inside = int(np.sum((np.asarray(levels.ratio[:-1]) > 0.3) & (np.asarray(levels.ratio[:-1]) <= 3.0)))

    def count(kernel, **names):
        return gj.diagnostics.ledger(kernel, levels, (4,), label, names)

    assert count(gj.Reverse(model, gj.DDIM())).calls == {"Network": 12}
    assert count(gj.Reverse(model, gj.Heun())).calls == {"Network": 23}  # the step to the clean level is Euler's
    assert count(gj.Reverse(gj.CFG(model, 3, 2.0), gj.DDIM())).calls == {"Network": 24}
    assert count(gj.Reverse(gj.CFG(model, 3, gj.Window(2.0, 0.3, 3.0)), gj.DDIM())).calls == {"Network": 12 + inside}
    both = count(gj.Reverse(gj.Autoguidance(model, weak, 2.0), gj.DDIM()), good=model, bad=weak)
    assert both.calls == {"good": 12, "bad": 12}
    found = count(gj.Reverse(Reuse(gj.Classifier(model, classifier, 2.0), 4), gj.DDIM()))
    assert found.calls == {"Network": 12, "NoisyClassifier": 3}
    assert found.gradients == {"NoisyClassifier": 3}
    assert str(found) == "Network: 12 calls, NoisyClassifier: 3 calls, 3 gradients"
    assert count(gj.Recur(gj.Reverse(model, gj.DDIM()), 3)).calls == {"Network": 36}
    particles = gj.diagnostics.ledger(
        gj.SMC(gj.Steered(model, gj.DDIM(1.0), lambda x0, level, cond: -x0.sum())), levels, (5, 4), label
    )
    assert particles.calls == {"Network": 60}


def test_an_overconfident_classifier_is_told_a_smaller_scale():
    """Labels drawn from p, reported as p^3: the fitting power is a third."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 4))
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    labels = np.array([rng.choice(4, p=p) for p in np.exp(log_p)])
    assert abs(fitting_power(log_p, labels) - 1) < 0.1
    assert abs(fitting_power(3 * log_p, labels) - 1 / 3) < 0.04
