"""Corrected guidance and twisted particles, one class each, against exact targets in every space."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import guidance_jax as gj
from guidance_jax.discrete import TAG, FirstHitting, PredictorGuidance, SingleJump
from guidance_jax.guidance import Tempered
from guidance_jax.oracles import Enumerated, monte_carlo_floor
from guidance_jax.text import LeftToRight
from tests.laws import first
from tests.table import MIXTURE, SCHEDULE
from tests.thresholds import most_total_variation
from tests.token_table import CLASSES, FLOW, JOINT, MASKED, NULL, UNIFORM, log_masked, log_uniform, unconditional

TEXT = Enumerated(JOINT, CLASSES, LeftToRight(3))
LABEL, SCALE = 1, 3.0
ANCESTRAL, FIRST = gj.Ancestral(), FirstHitting()
POSITIONS = gj.positions(4)


def log_text(x, level, label):
    """The exact p(label | prefix)."""
    return TEXT.log_posterior(x, level, label)


def particles(move, levels, shape, runs=32, n=1000, seed=0):
    """(samples, log-weights, log evidences) of many populations, weighed alike."""
    kernel = gj.SMC(move, threshold=0.7)
    found = gj.populations(gj.keys(seed, runs), kernel, levels, shape, n, jnp.full(runs, LABEL))
    log_w = np.asarray(found.log_w + found.log_evidence[:, None], np.float64).ravel()
    return np.asarray(found.x).reshape(-1, *shape), log_w, np.asarray(found.log_evidence)


def off(model, move, levels, target, **options):
    """(total variation to `target`, log of the mean evidence, its standard error) of a population of tokens or text."""
    shape = (model.p.ndim + model.given,)
    x, log_w, evidence = particles(move, levels, shape, **options)
    mean = np.exp(evidence).mean()
    error = np.exp(evidence).std() / np.sqrt(len(evidence)) / mean
    return model.total_variation(x, target, log_w), np.log(mean), error


def tilted(model, scale=SCALE):
    """p(x)^(1 - scale) p(x | label)^scale, normalised, and the logarithm of its sum: the evidence of the paths."""
    p, c = model.target().astype(np.float64), model.target(LABEL).astype(np.float64)
    weight = p ** (1 - scale) * c**scale
    return weight / weight.sum(), np.log(weight.sum())


CORRECTED = {
    "masks, one by one": (MASKED, FIRST, FLOW.levels(3)),
    "text": (TEXT, ANCESTRAL, POSITIONS),
}
# uniform in the logarithm of the noise-to-signal ratio, then straight to the clean level
FINE = FLOW.by_ratio(jnp.exp(jnp.linspace(jnp.log(999.0), jnp.log(1e-3), 256)))
SLOW = {
    "masks, in parallel": (MASKED, ANCESTRAL, FLOW.levels(128), {}),
    "uniform, one by one": (UNIFORM, SingleJump(), FINE, {"runs": 64}),
}


def check_corrected(record, model, solver, levels, proposal, **options):
    target, log_sum = tilted(model)
    draws = options.get("runs", 32) * options.get("n", 1000)
    guided = gj.CFG(model, NULL, SCALE)
    shape = (model.p.ndim + model.given,)
    plain = gj.generate(gj.keys(1, draws), gj.Reverse(guided, solver), levels, shape, jnp.full(draws, LABEL))
    floor, before = monte_carlo_floor(target, draws), model.total_variation(plain, target)
    distance, log_evidence, error = off(model, gj.Corrected(guided, solver, proposal), levels, target, **options)
    found = {"CFG": before, "corrected": distance, "floor": floor, "evidence": log_evidence, "its error": error}
    for what, value in {**found, "exact evidence": log_sum}.items():
        record(what, value)
    assert distance <= 2 * floor < before
    return log_evidence - log_sum, error


@pytest.mark.parametrize("proposal", [1.0, None], ids=["by the conditional model", "by the guidance"])
@pytest.mark.parametrize("name", first(1, CORRECTED))
def test_corrected_cfg_samples_its_target(name, proposal, measured):
    """p(x) p(y | x)^3 within twice the floor, where CFG alone is ten floors away; and its evidence."""
    gap, error = check_corrected(measured, *CORRECTED[name], proposal)
    assert abs(gap) < 4 * error + 1e-3


@pytest.mark.release
@pytest.mark.parametrize("name", SLOW)
def test_corrected_cfg_samples_its_target_in_the_limit_of_small_steps(name, measured):
    *parts, options = SLOW[name]
    gap, _ = check_corrected(measured, *parts, 1.0, **options)
    assert abs(gap) < 0.06  # the chain itself is only near the exact one


RATES = {
    "exact rates, masks": (MASKED, PredictorGuidance(unconditional(MASKED), log_masked, SCALE), FIRST, FLOW.levels(3)),
    "autoguidance, text": (TEXT, gj.Autoguidance(TEXT, unconditional(TEXT), SCALE), ANCESTRAL, POSITIONS),
}


@pytest.mark.release
@pytest.mark.parametrize("name", RATES)
def test_other_guidance_is_corrected_by_the_same_class(name):
    model, guided, solver, levels = RATES[name]
    target, log_sum = tilted(model)
    distance, log_evidence, error = off(model, gj.Corrected(guided, solver), levels, target)
    assert distance <= 2 * monte_carlo_floor(target, 32_000)
    assert abs(log_evidence - log_sum) < 4 * error + 1e-3


@pytest.mark.release
@pytest.mark.parametrize("name", first(1, CORRECTED))
def test_tempering_is_corrected_to_a_power_of_the_density(name):
    """p(x | y)^2 of tokens and text: annealing by one class with CFG's correction."""
    model, solver, levels = CORRECTED[name]
    target = model.target(LABEL) ** 2
    target = target / target.sum()
    distance, _, _ = off(model, gj.Corrected(Tempered(model, 2.0), solver), levels, target)
    assert distance <= 2 * monte_carlo_floor(target, 32_000)


TWISTED = {
    "masks": (MASKED, FIRST, FLOW.levels(3), log_masked, TAG(unconditional(MASKED), log_masked, SCALE)),
    "uniform": (UNIFORM, ANCESTRAL, FLOW.levels(48), log_uniform, None),
    "text": (TEXT, ANCESTRAL, POSITIONS, log_text, gj.CFG(TEXT, NULL, 2.0)),
}


@pytest.mark.release
@pytest.mark.parametrize("name", first(["masks"], TWISTED))
def test_twisted_particles_are_one_class_in_every_space(name):
    """Exact under the solver's own chain, whatever the steps: so the uniform chain is compared with itself."""
    model, solver, levels, twist, proposal = TWISTED[name]
    move = gj.Twisted(unconditional(model), solver, twist, SCALE, proposal, noisy=True)
    prior = model.target()
    if name == "uniform":
        own = gj.generate(
            gj.keys(5, 400_000), gj.Reverse(unconditional(model), solver), levels, (3,), jnp.zeros(400_000, int)
        )
        prior = np.bincount(model.index(own), minlength=27) / 400_000
    weight = prior * np.asarray(CLASSES, np.float64)[:, LABEL] ** SCALE
    distance, log_evidence, error = off(model, move, levels, weight / weight.sum())
    assert distance <= 2 * monte_carlo_floor(weight / weight.sum(), 32_000)
    assert abs(log_evidence - np.log(weight.sum())) < 4 * error + 2e-3


@pytest.mark.release
def test_the_gain_on_the_plane_is_the_published_corrector():
    """scale (scale - 1) |m_c - m_u|^2 / (2 v) where particles move by the guidance: Skreta et al., to rounding."""
    t, s, x, key = SCHEDULE(0.5), SCHEDULE(0.48), jnp.array([0.3, -0.4]), jax.random.key(3)
    solver = gj.DDIM(1.0)
    move = gj.Corrected(gj.CFG(MIXTURE, NULL, SCALE), solver)
    found, gain = move.potential(x, move.init(x), t, jnp.array(LABEL), key)
    assert gain == 0
    gain = move.propose(found, t, s, jnp.array(LABEL), key)[2]
    c, u = (solver.transition(MIXTURE(x, t, y, (), None)[0], t, s) for y in (LABEL, NULL))
    want = SCALE * (SCALE - 1) / 2 * np.sum(((c.mean - u.mean) / c.std) ** 2)
    np.testing.assert_allclose(gain, want, rtol=1e-3)


@pytest.mark.parametrize("guided", [gj.CFG(MIXTURE, NULL, gj.Window(2.0, 0.1, 1.0)), gj.CFG(MIXTURE, NULL, abs)])
def test_a_strength_that_changes_has_no_target(guided):
    with pytest.raises(gj.Refused, match="needs one constant scale, got a scale of CFG that changes"):
        particles(gj.Corrected(guided, gj.DDIM(1.0)), SCHEDULE.levels(3), (2,), 2, 4)


@pytest.mark.release
def test_the_enumerated_text_is_the_enumerated_joint():
    """Left to right it samples p(x | y), and its classifier of prefixes ends at p(y | x)."""
    n = 20_000
    x = gj.generate(gj.keys(0, n), gj.Reverse(TEXT, ANCESTRAL), POSITIONS, (4,), jnp.full(n, LABEL))
    assert TEXT.total_variation(x, TEXT.target(LABEL)) <= most_total_variation(TEXT.target(LABEL), n)
    whole = jnp.array([0, 2, 1, 0])
    for y in range(3):
        np.testing.assert_allclose(log_text(whole, POSITIONS.at(3), y), TEXT.log_likelihood(whole, None, y), atol=1e-5)
