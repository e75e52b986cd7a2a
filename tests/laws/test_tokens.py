"""What every method for tokens and text obeys, and what the exact ones sample."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import guidance_jax as gj
from guidance_jax.discrete import (
    SUNDAE,
    TAG,
    AnyOrder,
    DensityRatio,
    FirstHitting,
    MaskPredict,
    PredictorFree,
    PredictorGuidance,
    TauLeap,
)
from guidance_jax.oracles import Enumerated
from guidance_jax.oracles import monte_carlo_floor as floor
from guidance_jax.particles.populations import _populations
from guidance_jax.sample import _generate
from guidance_jax.zoo.sequence_models import token_classifier
from guidance_jax.zoo.transformer import Transformer
from tests import token_table as table
from tests.laws import first
from tests.thresholds import most_total_variation
from tests.token_table import (
    FLOW,
    LENGTH,
    LEVELS,
    MASKED,
    NULL,
    ROWS,
    UNIFORM,
    log_masked,
    log_uniform,
    neighbours,
    unconditional,
)

LABELS = jnp.array([0, 1, 2, 1])
OF_TOKENS = [n for n, row in ROWS.items() if row.shape == (LENGTH,)]


def draw(row, kernel, order=None, seed=0):
    """60 samples, a program that all laws of a row share; key and label go by `order`."""
    keys, labels, order = gj.keys(seed, 60), jnp.resize(LABELS, 60), np.arange(60) if order is None else order
    return np.asarray(gj.generate(keys[order], kernel, row.levels, row.shape, labels[order]))


# one of each mechanism: log p, rates, a solver, wrappers of predictions and of kernels, hidden states, a cache
MECHANISMS = [
    "CFG, uniform",
    gj.discrete.TAG,
    gj.Ancestral,
    gj.discrete.Forbid,
    gj.Infill,
    gj.discrete.NOS,
    gj.text.FUDGE,
]


@pytest.mark.parametrize("name", first([gj.discrete.TAG, gj.Infill, gj.text.FUDGE], ROWS), ids=str)
def test_laws_of_a_row(name):
    """One program for all strengths; the type is kept; a sample depends on its own key alone; off is the identity."""
    row = ROWS[name]
    x = draw(row, row.make(1.3))
    assert x.shape == (60, *row.shape)
    assert x.dtype == (jnp.int32 if len(row.shape) == 1 else jnp.float32)
    assert np.isfinite(x).all()
    before = _generate._cache_size()
    order = np.random.default_rng(0).integers(0, 60, 60)
    np.testing.assert_allclose(draw(row, row.make(1.3), order), x[order], atol=1e-4)
    draw(row, row.make(jnp.float32(0.4)), seed=1)
    if row.off is not None:
        off, on = (draw(row, row.make(w)) for w in (row.off, row.off + 4.0))
    assert _generate._cache_size() == before
    if row.off is not None:
        plain = draw(row, row.identity)
        np.testing.assert_allclose(off, plain, atol=1e-5)
        assert np.abs(on - plain).max() > 1e-3


@pytest.mark.release
@pytest.mark.parametrize("cls", first([gj.Corrected], table.PARTICLES))
def test_laws_of_populations(cls):
    """One program for all strengths, integers in and out, microbatches change nothing."""
    move, cond = table.PARTICLES[cls], jnp.array([0, 1])
    found = gj.populations(gj.keys(0, 2), gj.SMC(move(1.5)), LEVELS, (LENGTH,), 6, cond)
    assert found.x.dtype == jnp.int32
    assert found.log_w.dtype == jnp.float32
    before = _populations._cache_size()
    gj.populations(gj.keys(3, 2), gj.SMC(move(jnp.float32(0.7))), LEVELS, (LENGTH,), 6, cond)
    assert _populations._cache_size() == before
    batched = gj.populations(gj.keys(0, 2), gj.SMC(move(1.5), microbatch=4), LEVELS, (LENGTH,), 6, cond)
    np.testing.assert_array_equal(batched.x, found.x)
    np.testing.assert_allclose(batched.log_evidence, found.log_evidence, atol=1e-5)


N = 100_000
FIRST = FirstHitting()
EXACT = {
    "exact rates": lambda w: gj.Reverse(PredictorGuidance(unconditional(MASKED), log_masked, w), FIRST),
    "predictor-free rates": lambda w: gj.Reverse(PredictorFree(MASKED, NULL, w), FIRST),
    "D-CFG": lambda w: gj.Reverse(gj.CFG(MASKED, NULL, w), FIRST),
    "density ratios": lambda w: gj.Reverse(DensityRatio(unconditional(MASKED), neighbours, w), FIRST),
    "any order": lambda w: AnyOrder(unconditional(MASKED), log_masked, w),
    "D-CFG, ancestral, token by token": lambda w: gj.Reverse(gj.CFG(MASKED, NULL, w), gj.Ancestral()),
}


@pytest.mark.parametrize("name", first(2, list(EXACT)[:5]))
def test_exact_methods_at_scale_one_are_within_the_floor(name, measured):
    """p(x | y) by total variation, 100,000 samples; no mask is left."""
    label = 1
    x = gj.generate(gj.keys(0, N), EXACT[name](1.0), LEVELS, (LENGTH,), jnp.full(N, label))
    assert (np.asarray(x) < MASKED.process.vocabulary).all()
    distance, target = MASKED.total_variation(x, MASKED.target(label)), MASKED.target(label)
    assert distance <= most_total_variation(target, N)
    guided = gj.generate(gj.keys(0, N), EXACT[name](3.0), LEVELS, (LENGTH,), jnp.full(N, label))
    bias = MASKED.total_variation(guided, MASKED.target(label, 3.0))
    for what, value in {"scale 1": distance, "scale 3": bias, "floor": floor(target, N)}.items():
        measured(what, value)
    assert bias > most_total_variation(target, N)  # guidance alone does not sample p(x) p(y|x)^3; particles do


STEPWISE = {
    "tau-leaping, masks": (MASKED, lambda m: gj.Reverse(m, TauLeap())),
    "ancestral, masks": (MASKED, lambda m: gj.Reverse(m, gj.Ancestral())),
    "tau-leaping, uniform": (UNIFORM, lambda m: gj.Reverse(m, TauLeap())),
    "ancestral, uniform": (UNIFORM, lambda m: gj.Reverse(m, gj.Ancestral())),
    "rates, tau-leaping, masks": (
        MASKED,
        lambda m: gj.Reverse(PredictorGuidance(unconditional(m), log_masked, 1.0), TauLeap()),
    ),
    "D-CBG, ancestral, masks": (
        MASKED,
        lambda m: gj.Reverse(PredictorGuidance(unconditional(m), log_masked, 1.0), gj.Ancestral()),
    ),
    "rates, tau-leaping, uniform": (
        UNIFORM,
        lambda m: gj.Reverse(PredictorGuidance(unconditional(m), log_uniform, 1.0), TauLeap()),
    ),
    "predictor-free rates, uniform": (
        UNIFORM,
        lambda m: gj.Reverse(PredictorFree(m, NULL, 1.0), TauLeap()),
    ),
}


@pytest.mark.release
@pytest.mark.parametrize("name", STEPWISE)
def test_small_steps_reach_the_conditional(name, measured):
    """Steps that change several tokens at once are exact in the limit: 256 steps, 20,000 samples, 1.2 floors."""
    model, kernel = STEPWISE[name]
    n, label = 20_000, 1
    x = gj.generate(gj.keys(0, n), kernel(model), FLOW.levels(256), (LENGTH,), jnp.full(n, label))
    distance, target = model.total_variation(x, model.target(label)), model.target(label)
    measured("total variation", distance)
    measured("floor", floor(target, n))
    assert distance <= 1.2 * floor(target, n)


@pytest.mark.parametrize("scale", [pytest.param(1.0, marks=pytest.mark.release), 3.0])
@pytest.mark.parametrize(
    "lead", ["TAG", *(pytest.param(n, marks=pytest.mark.release) for n in ("none", "exact rates", "D-CFG"))]
)
def test_twisted_particles_reach_the_guided_target(lead, scale, measured):
    """p(x) p(y|x)^scale within the floor of 100,000 draws, and its evidence, whatever leads the particles."""
    model, label = unconditional(MASKED), 1
    proposal = {
        "none": None,
        "TAG": TAG(model, log_masked, scale),
        "exact rates": PredictorGuidance(model, log_masked, scale),
        "D-CFG": gj.CFG(MASKED, NULL, scale),
    }[lead]
    move = gj.Twisted(model, FIRST, log_masked, scale, proposal, noisy=True)
    n = 20_000 if proposal else 60_000  # without a lead more particles are needed
    found = gj.populations(gj.keys(0, 20), gj.SMC(move), LEVELS, (LENGTH,), n, jnp.full(20, label))
    log_w = np.asarray(found.log_w + found.log_evidence[:, None]).ravel()
    target = MASKED.target(label, scale)
    distance = MASKED.total_variation(np.asarray(found.x).reshape(-1, LENGTH), target, log_w)
    exact = float(np.sum(MASKED.target() * np.asarray(MASKED.classes)[:, label] ** scale))
    evidence = np.exp(np.asarray(found.log_evidence)) / exact
    measured("total variation", distance)
    measured("floor", floor(target, N))
    assert distance <= most_total_variation(target, N)
    # five errors: t of 19 degrees exceeds them once in 12,000 times
    assert abs(evidence.mean() - 1) < 5 * evidence.std() / np.sqrt(20) + 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    "resample",
    [
        gj.resampling.systematic,
        *(
            pytest.param(f, marks=pytest.mark.release)
            for f in (gj.resampling.stratified, gj.resampling.residual, gj.resampling.multinomial)
        ),
    ],
    ids=lambda f: f.__name__,
)
@pytest.mark.parametrize("cls", [gj.BestOf, gj.Steered])
def test_other_particles_and_resamplers_on_tokens(cls, resample):
    """At scale 1.5 every resampler reaches the target within three floors of 30,000 (correlated) draws."""
    label, scale = 2, 1.5
    smc = gj.SMC(table.PARTICLES[cls](scale), resample)
    found = gj.populations(gj.keys(1, 15), smc, LEVELS, (LENGTH,), 10_000, jnp.full(15, label))
    log_w = np.asarray(found.log_w + found.log_evidence[:, None]).ravel()
    target = MASKED.target(label, scale)
    distance = MASKED.total_variation(np.asarray(found.x).reshape(-1, LENGTH), target, log_w)
    assert distance <= 3 * floor(target, 30_000)


@pytest.mark.parametrize("model", [MASKED, UNIFORM], ids=["masks", "uniform"])
def test_guided_rates_with_the_exact_predictor_are_the_conditional_rates(model):
    """The law of Nisonoff et al.: at scale 1, at every state; and R^y leaves the speed of unmasking alone."""
    level, label = FLOW(jnp.float32(0.4)), 2
    exact = PredictorGuidance(unconditional(model), model.log_posterior, 1.0)
    tokens = [[0, 1, 2], [2, 2, 1], [1, 0, 0]]
    if model is MASKED:
        tokens = [[3, 1, 3], [3, 3, 3], [0, 3, 2]]
    for x in jnp.array(tokens):
        guided, conditional = (m(x, level, label, (), None)[0] for m in (exact, model))
        a, b = (p.process.log_rates(x, p.log_p, level) + p.tilt for p in (guided, conditional))
        np.testing.assert_allclose(jnp.exp(a), jnp.exp(b), atol=1e-5)


@pytest.mark.parametrize("model", [MASKED, UNIFORM], ids=["masks", "uniform"])
def test_transition_is_bayes_rule_on_the_joint(model):
    """q(x_s | x_t) of one position, the others fixed, against a sum over all clean sequences and both corruptions."""
    t, s = FLOW(jnp.float32(0.7)), FLOW(jnp.float32(0.3))
    process, x = model.process, jnp.array([3, 1, 3] if model is MASKED else [2, 1, 0])
    log_q = gj.Ancestral().transition(model(x, t, None, (), None)[0], t, s).log_q
    joint, sequences = model.target(), model.sequences
    now, before = np.asarray(process.forward(t), np.float64), np.asarray(process.forward(s), np.float64)
    kept = float(t.alpha / s.alpha)
    step = kept * np.eye(process.states)  # q(x_t | x_s)
    if model is MASKED:
        step[:, process.mask] += 1 - kept
    else:
        step += (1 - kept) / process.vocabulary
    for site in range(LENGTH):
        others = np.prod([now[sequences[:, o], int(x[o])] for o in range(LENGTH) if o != site], 0)
        row = (joint * others) @ before[sequences[:, site]] * step[:, int(x[site])]
        np.testing.assert_allclose(np.exp(log_q[site]), row / row.sum(), atol=1e-5)


@pytest.mark.release
def test_predictor_free_guidance_unmasks_faster_and_cfg_does_not():
    """By Hoelder the unnormalised rates grow with scale > 1; the normalised form keeps the total at 1."""
    level, x = FLOW(jnp.float32(0.5)), jnp.array([3, 1, 3])
    for rule, faster in ((PredictorFree, True), (gj.CFG, False)):
        model = rule(MASKED, NULL, 3.0)
        pred, _ = model(x, level, jnp.int32(1), model.init(x), None)
        total = np.exp(pred.process.log_rates(x, pred.log_p, level) + pred.tilt).sum(1)[[0, 2]]
        assert (total > 1 + 1e-3).all() if faster else np.allclose(total, 1, atol=1e-5)


def test_tag_is_the_first_order_of_the_exact_ratios():
    """On a classifier that is linear in one-hot vectors, the Taylor expansion is exact."""
    weights = jax.random.normal(jax.random.key(0), (LENGTH, MASKED.process.states))

    def linear(x, level, label):
        hot = jax.nn.one_hot(x, MASKED.process.states) if x.ndim == 1 else x
        return jnp.sum(weights * hot)

    model, x = unconditional(MASKED), jnp.array([3, 0, 3])
    level = FLOW(jnp.float32(0.5))
    taylor, exact = (rule(model, linear, 1.7)(x, level, 0, (), None)[0] for rule in (TAG, PredictorGuidance))
    np.testing.assert_allclose(taylor.tilt, exact.tilt, atol=1e-5)


def test_chunks_of_neighbours_bound_the_memory_and_change_nothing():
    x, level = jnp.array([3, 0, 3]), FLOW(jnp.float32(0.5))
    whole, parts = (
        PredictorGuidance(unconditional(MASKED), log_masked, 2.0, microbatch=c)(x, level, 1, (), None)[0]
        for c in (None, 2)
    )
    np.testing.assert_allclose(whole.tilt, parts.tilt, atol=1e-6)


@pytest.mark.release
@pytest.mark.parametrize("name", first([gj.Ancestral, FirstHitting, SUNDAE], OF_TOKENS), ids=str)
def test_no_mask_is_left_and_no_fixed_position_changes(name):
    """Infilling holds for every process and solver, at strong guidance, after every step."""
    row, known, n = ROWS[name], jnp.array([2, -1, 0]), 300
    kernel, levels = gj.Infill(row.make(20.0), known), FLOW.levels(9)

    @jax.jit
    @jax.vmap
    def run(key):
        x = kernel.start(key, levels, (LENGTH,))
        carry, path = gj.sample(key, kernel, levels, x, jnp.array(1), record=lambda carry: carry.x)
        return carry.x, path

    out, path = map(np.asarray, run(gj.keys(0, n)))
    assert (path[..., [0, 2]] == [2, 0]).all()
    assert (out < 3).all()


@pytest.mark.release
def test_infilling_of_masks_is_exact_conditioning():
    n = 30_000
    kernel = gj.Infill(gj.Reverse(MASKED, FIRST), jnp.array([-1, 2, -1]))
    x = gj.generate(gj.keys(0, n), kernel, LEVELS, (LENGTH,), jnp.full(n, 1))
    target = MASKED.target(1) * (MASKED.sequences[:, 1] == 2)
    target = target / target.sum()
    assert MASKED.total_variation(x, target) <= most_total_variation(target, n)


@pytest.mark.release
def test_mask_predict_keeps_what_it_is_sure_of():
    """Greedy decoding of an easy joint finds its mode; the number of masks follows sigma."""
    peaked = Enumerated(
        jax.nn.softmax(8 * jnp.log(table.JOINT).ravel()).reshape(3, 3, 3), table.CLASSES, gj.Absorbing(3)
    )
    mode = peaked.sequences[int(np.argmax(peaked.target()))]
    kernel = gj.Reverse(unconditional(peaked), MaskPredict())
    x = jnp.full(LENGTH, 3, jnp.int32)
    carry, path = gj.sample(jax.random.key(0), kernel, FLOW.levels(3, start=1.0), x, 0, record=lambda carry: carry.x)
    np.testing.assert_array_equal(carry.x, mode)
    np.testing.assert_array_equal((np.asarray(path) == 3).sum(1), [2, 1, 0])


@pytest.mark.release
def test_sundae_with_the_exact_posterior_is_gibbs_sampling():
    """With p(x_l | the other tokens) and one position at a time in the mean, the chain keeps the joint it starts
    from."""

    def conditionals(x, level, cond):
        pred, _ = MASKED(x, FLOW(jnp.float32(0.0)), None, (), None)
        return pred.log_p

    n = 20_000
    start = MASKED.sequences[np.random.default_rng(0).choice(27, n, p=MASKED.target())]
    clean = gj.TokenNetwork(
        (), lambda params, x, t, cond: conditionals(x, None, None), gj.Uniform(3), batched=False, given="others"
    )
    kernel = gj.Reverse(clean, SUNDAE(share=0.02))
    run = jax.jit(jax.vmap(lambda key, x: gj.sample(key, kernel, FLOW.levels(100), x).x))
    after = run(gj.keys(0, n), jnp.asarray(start))
    assert np.mean(np.any(np.asarray(after) != start, 1)) > 0.5
    assert MASKED.total_variation(after, MASKED.target()) <= 1.5 * floor(MASKED.target(), n)


def test_truncation_keeps_the_most_probable():
    pred, _ = MASKED(jnp.array([3, 3, 3]), FLOW(jnp.float32(0.5)), 1, (), None)
    p = np.exp(pred.log_p)
    top2 = np.exp(gj.Ancestral(top_k=2).truncate(pred).log_p)
    assert ((top2 > 0).sum(1) == 2).all()
    assert (top2[np.arange(3), p.argmin(1)] == 0).all()
    nucleus = np.exp(gj.Ancestral(top_p=1e-6).truncate(pred).log_p)
    np.testing.assert_allclose(nucleus.max(1), 1, atol=1e-6)
    np.testing.assert_allclose(np.exp(gj.Ancestral(top_p=1.0).truncate(pred).log_p), p, atol=1e-5)
    np.testing.assert_allclose(
        np.exp(gj.Ancestral(0.5).truncate(pred).log_p), p**2 / (p**2).sum(1, keepdims=True), atol=1e-5
    )


@pytest.mark.release
def test_memory_of_exact_rates_is_that_of_one_chunk(measured):
    """XLA's temporary bytes, 40 tokens of 20 letters, a small transformer: chunks of 8 against all 800."""
    judge = Transformer(21, 20, 40, width=32, depth=1, values=2)
    classifier = token_classifier(judge, judge.init(jax.random.key(0), jnp.zeros(40, int), jnp.zeros(())))
    flat = gj.TokenNetwork((), lambda params, x, t, cond: jnp.zeros((40, 20)), gj.Absorbing(20), batched=False)

    def peak(microbatch):
        guided = PredictorGuidance(flat, classifier, 1.0, microbatch)
        step = jax.jit(lambda x: guided(x, FLOW(jnp.float32(0.5)), 1, (), None)[0].tilt)
        return step.lower(jnp.zeros(40, jnp.int32)).compile().memory_analysis().temp_size_in_bytes

    small, large = peak(8), peak(None)
    measured("bytes in chunks of 8", small)
    measured("bytes at once", large)
    assert small < large / 20
