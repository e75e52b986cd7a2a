"""Numbers at the edge, over all rows of the tables: right, marked, or refused; never a plausible sample.

Kinds: a network that says NaN for one sample, a level without signal, one step, a label outside the table, a scale of
NaN, keys of another generator, a grid that does not end clean.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import guidance_jax as gj
from guidance_jax import discrete
from guidance_jax.core import FAILED, Prediction, Refused, argmax_token, count_failed, draw_token, read_entry
from guidance_jax.discrete import Forbid, PredictorGuidance
from guidance_jax.guidance import (
    MAMBOG,
    TCFG,
    GaussianLikelihood,
    Rescale,
)
from guidance_jax.inverse import DPS, MMPS, TMPD, PiGDM
from guidance_jax.particles import BestOf
from guidance_jax.solvers import DPM2, GLASS, LMS, DPMSolver2S
from tests import table, token_table
from tests.laws import first

LABELS = jnp.array([0, 1, 2, 1])
DARK = gj.RectifiedFlow().levels(6, start=1.0)  # the first level has no signal


@gj.core.pytree
class Spoiled(gj.core.Wrapper, gj.core.Denoiser):
    """What is inside, but NaN for the conditions of `label`: one sample of a batch meets numbers that are none."""

    inner: object
    label: object

    def __call__(self, x, level, cond, state, key):
        pred, state = self.inner(x, level, cond, state, key)
        log_p = jnp.where(jnp.any(jnp.asarray(cond) == self.label), jnp.nan, pred.log_p)
        return dataclasses.replace(pred, log_p=log_p), state


@gj.core.pytree
class SpoiledAfar(gj.core.Wrapper, gj.core.Denoiser):
    """What is inside, but NaN far from the data."""

    inner: object

    def __call__(self, x, level, cond, state, key):
        pred, state = self.inner(x, level, cond, state, key)
        return jax.tree.map(lambda a: jnp.where(x[0] > 50, jnp.nan, a), pred), state


def drawn(kernel, levels, shape, cond=LABELS, x=None):
    return np.asarray(gj.generate(gj.keys(0, len(cond)), kernel, levels, shape, cond, x))


# ---------------------------------------------------------------------------------------------- a network that says NaN


@pytest.mark.parametrize(
    "method",
    first(table.CORE, table.GUIDANCE),
    ids=lambda c: c.__name__,
)
def test_one_sample_s_nan_stays_in_that_sample_of_images(method):
    """By every method: the others are what they are without it."""
    make, levels = table.GUIDANCE[method].make, gj.Cosine().levels(3)
    x = jnp.array([[100.0, 0.1], [0.3, -0.8], [1.1, 0.4], [-0.2, 0.9]])
    whole = drawn(gj.Reverse(make(1.5), gj.DDIM()), levels, (2,), x=x)
    spoiled = drawn(gj.Reverse(make(1.5, SpoiledAfar(table.MIXTURE)), gj.DDIM()), levels, (2,), x=x)
    assert np.isnan(spoiled[0]).all()
    np.testing.assert_allclose(spoiled[1:], whole[1:], rtol=1e-5, atol=1e-5)


SOLVERS = {
    "Ancestral": gj.Ancestral(),
    "FirstHitting": discrete.FirstHitting(),
    "TauLeap": discrete.TauLeap(),
    "MaskPredict": discrete.MaskPredict(),
    "top k": gj.Ancestral(top_k=2),
    "top p": discrete.TauLeap(temperature=0.7, top_p=0.9),
}


@pytest.mark.release
@pytest.mark.parametrize("name", first(2, SOLVERS))
@pytest.mark.parametrize("where", first(2, ["network", "guide", "scale"]))
def test_one_sample_s_nan_is_marked_in_masks(name, where):
    """All tokens of that sample are FAILED, none of the others is."""
    solver, levels = SOLVERS[name], gj.RectifiedFlow().levels(3)
    bare = gj.Unconditional(token_table.MASKED, token_table.NULL)
    if where == "network":
        model = Spoiled(token_table.MASKED, 0)
    elif where == "guide":
        model = PredictorGuidance(bare, nan_for_the_first, 1.0)
    else:
        model = PredictorGuidance(bare, token_table.log_masked, gj.PerSample(jnp.array([jnp.nan, 1, 1, 1])))
    found = drawn(gj.Reverse(model, solver), levels, (3,))
    assert (found[0] == FAILED).all()
    assert ((found[1:] >= 0) & (found[1:] < 3)).all()
    assert count_failed(found) == 1


def nan_for_the_first(x, level, label):
    return jnp.where(label == 0, jnp.nan, token_table.log_masked(x, level, label))


@pytest.mark.release
@pytest.mark.parametrize(
    "solver", first(1, [gj.Ancestral(), discrete.TauLeap(), discrete.SingleJump(), discrete.SUNDAE()]), ids=repr
)
def test_one_sample_s_nan_is_marked_in_uniform_tokens(solver):
    """A process that draws every token again must not forget it."""
    found = drawn(gj.Reverse(Spoiled(token_table.UNIFORM, 0), solver), gj.RectifiedFlow().levels(8), (3,))
    assert (found[0] == FAILED).all()
    assert (found[1:] >= 0).all()


@pytest.mark.release
def test_nan_at_one_level_is_not_forgotten():
    """A guide that is NaN at the noisiest level alone."""

    def once(x, level, label):
        return jnp.where((level.sigma > 0.99) & (label == 0), jnp.nan, token_table.log_uniform(x, level, label))

    model = PredictorGuidance(gj.Unconditional(token_table.UNIFORM, token_table.NULL), once, 1.0)
    found = drawn(gj.Reverse(model, gj.Ancestral()), gj.RectifiedFlow().levels(5), (3,))
    assert (found[0] == FAILED).all()
    assert (found[1:] >= 0).all()


def test_one_sample_s_nan_is_marked_in_text():
    def spoiled(log_p, label):
        return jnp.where(label == 0, jnp.nan, log_p)

    @gj.core.pytree
    class Text(gj.core.Wrapper, gj.core.Denoiser):
        inner: object

        def __call__(self, x, level, cond, state, key):
            pred, state = self.inner(x, level, cond, state, key)
            return discrete.TokenPrediction(x, spoiled(pred.log_p, cond), pred.process), state

    found = drawn(gj.Reverse(Text(token_table.MARKOV), gj.Ancestral()), token_table.TEXT_LEVELS, (6,))
    assert (found[0] == FAILED).all()
    assert ((found[1:] >= 0) & (found[1:] < 3)).all()


@pytest.mark.release
def test_embeddings_that_are_nan_are_no_words():
    table_ = jnp.array([[0.0, 1.0], [1.0, 0.0]])
    x = jnp.array([[0.1, 0.9], [jnp.nan, 0.2]])
    assert gj.embeddings.nearest(x, table_).tolist() == [0, FAILED]
    model = gj.Function(lambda x, level, cond: jnp.where(cond == 0, jnp.nan, x))
    found = drawn(gj.Reverse(gj.embeddings.Rounded(model, table_), gj.DDIM()), gj.Cosine().levels(3), (2, 2))
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1:]).all()


@pytest.mark.release
def test_a_dead_end_is_marked_and_a_forbidden_neighbour_is_not():
    """p(y | x_t) = 0 leads nowhere; what the model never says may have any ratio; no guide's zero is drawn."""
    bare = gj.Unconditional(token_table.MASKED, token_table.NULL)

    def never(x, level, label):
        return jnp.full((), -jnp.inf)

    found = drawn(gj.Reverse(PredictorGuidance(bare, never, 1.0), gj.Ancestral()), gj.RectifiedFlow().levels(3), (3,))
    assert (found == FAILED).all()

    def without_two(x, level, label):  # log p(y | x) of "no token is 2"
        return jnp.where(jnp.any(x == 2), -jnp.inf, 0.0)

    for solver in (gj.Ancestral(), discrete.TauLeap(), discrete.FirstHitting()):
        kernel = gj.Reverse(PredictorGuidance(bare, without_two, 1.0), solver)
        found = drawn(kernel, gj.RectifiedFlow().levels(3), (3,), jnp.zeros(64, int))
        assert ((found >= 0) & (found < 2)).all()

    banned = Forbid(bare, jnp.array([False, True, False]))

    def nan_where_banned(x, level, label):
        return jnp.where(jnp.any(x == 1), jnp.nan, 0.0)

    for solver in (gj.Ancestral(), discrete.TauLeap(), discrete.FirstHitting()):
        kernel = gj.Reverse(PredictorGuidance(banned, nan_where_banned, 1.0), solver)
        found = drawn(kernel, gj.RectifiedFlow().levels(3), (3,))
        assert np.isin(found, (0, 2)).all()


def test_banning_everything_is_refused():
    kernel = gj.Reverse(Forbid(token_table.MASKED, jnp.ones(3, bool)), gj.Ancestral())
    with pytest.raises(Refused, match="bans every token"):
        drawn(kernel, gj.RectifiedFlow().levels(3), (3,))
    by_place = gj.Reverse(Forbid(token_table.MASKED, jnp.eye(3, dtype=bool)), gj.Ancestral())
    found = drawn(by_place, gj.RectifiedFlow().levels(3), (3,))
    assert (found != np.arange(3)).all()


@pytest.mark.release
def test_a_particle_that_met_nan_has_no_weight():
    """In images and in tokens; the evidence is that of the others."""

    def half(x, level, cond):
        return jnp.where(x[0] > 0, jnp.nan, x * 0.5)

    kernel = gj.SMC(BestOf(gj.Reverse(gj.Function(half), gj.DDIM()), nothing), threshold=0.0)
    found = gj.populations(gj.keys(0, 2), kernel, gj.Cosine().levels(3), (2,), 64)
    bad = ~np.isfinite(found.x).all(-1)
    assert bad.any()
    assert not bad.all()
    assert np.isneginf(found.log_w[bad]).all()
    assert np.isfinite(found.log_w[~bad]).all()
    assert np.isfinite(found.best()).all()
    np.testing.assert_array_equal(found.dropped, bad.sum(1))


def nothing(x, level, cond):
    return 0.0


def test_draws_and_tables_by_themselves():
    log_q = jnp.array([[0.0, -1.0], [jnp.nan, 0.0], [-jnp.inf, -jnp.inf], [jnp.inf, 0.0], [-jnp.inf, 0.0]])
    assert (np.asarray(draw_token(jax.random.key(0), log_q))[1:] == [FAILED, FAILED, FAILED, 1]).all()
    assert argmax_token(log_q).tolist() == [0, FAILED, FAILED, FAILED, 1]
    rows = jnp.array([1.0, 2.0, 3.0])
    assert float(read_entry(rows, 2)) == 3.0
    for index in (-1, 3, 2**31 - 1, -(2**31)):
        assert np.isnan(jax.jit(read_entry)(rows, index))
    with pytest.raises(Refused, match="one integer"):
        read_entry(rows, jnp.array([1]))
    assert count_failed(np.array([[0, FAILED], [1, 1]])) == 1
    assert count_failed(np.array([[0.0, 9e33], [np.nan, 1], [1, 1]])) == 2
    assert count_failed(np.zeros((2, 3), np.uint8)) == 0


# ------------------------------------------------------------------------------------------------- labels and tables


def logits(params, x, t):
    return params * x[0] * jnp.arange(3.0)


def small(params, x, t, cond):
    return params * x


@pytest.mark.release
@pytest.mark.parametrize("label", [-1, 3, 12, 100])
def test_a_traced_label_outside_the_table_is_marked(label):
    """A classifier knows its logits, a network with a domain its classes; under jit nothing is refused."""
    free = gj.Function(lambda x, level, cond: 0.5 * x)
    noisy = gj.NoisyClassifier(jnp.ones(()), logits, batched=False)
    domain = gj.Domain((2,), gj.Cosine(), num_classes=3, null_label=3)
    model = gj.Network(jnp.ones(()), small, gj.parameterizations.v, domain, batched=False)
    kernels = {
        "classifier": gj.Reverse(gj.Classifier(free, noisy, 1.0), gj.DDIM()),
        "clean classifier": gj.Reverse(
            gj.Reconstruction(
                free, gj.guidance.CleanClassifier(jnp.ones(()), lambda p, x: p * x[0] * jnp.arange(3.0)), 1.0
            ),
            gj.DDIM(),
        ),
        "network": gj.Reverse(model, gj.DDIM()),
        "scale": gj.Reverse(gj.CFG(free, 0, gj.PerClass(jnp.ones(3))), gj.DDIM()),
    }
    for name, kernel in kernels.items():
        if name == "network" and label == 3:
            continue  # the null label
        run = jax.jit(
            lambda label, kernel=kernel: gj.sample(
                jax.random.key(0), kernel, gj.Cosine().levels(3), jnp.ones(2), label
            ).x
        )
        assert np.isnan(run(label)).any(), name
        assert np.isfinite(run(1)).all(), name
    with pytest.raises(Refused, match="labels go from 0 to 2"):
        gj.generate(
            gj.keys(0, 1), kernels["network"], gj.Cosine().levels(3), (2,), jnp.array([label if label != 3 else 4])
        )


def test_tables_of_scales_are_those_of_the_classes():
    model = gj.Network(
        jnp.ones(()),
        small,
        gj.parameterizations.v,
        gj.Domain((2,), gj.Cosine(), num_classes=3, null_label=3),
        batched=False,
    )
    for scale in (
        gj.PerClass(jnp.ones(5)),
        gj.Window(gj.PerClass(jnp.ones(5)), 0.1, 9.0),
        gj.PerClass(jnp.ones((3, 2))),
    ):
        with pytest.raises(Refused, match="PerClass takes one scale for each class"):
            drawn(gj.Reverse(gj.CFG(model, 3, scale), gj.DDIM()), gj.Cosine().levels(3), (2,))
    drawn(gj.Reverse(gj.CFG(model, 3, gj.PerClass(jnp.ones(4))), gj.DDIM()), gj.Cosine().levels(3), (2,))


@pytest.mark.parametrize("kernel", list(table.all_kernels(2.0)))
def test_a_scale_that_is_nan_is_refused_or_shows(kernel):
    """Every row of the table, at a strength of NaN."""
    try:
        found = drawn(table.all_kernels(jnp.nan)[kernel], gj.Cosine().levels(3), (2,))
    except Refused:
        return
    assert count_failed(found) == len(found)


@pytest.mark.release
@pytest.mark.parametrize("scale", [jnp.nan, jnp.inf])
def test_tokens_at_a_scale_that_is_no_number_are_refused_or_marked(scale):
    for make in (
        lambda w: gj.CFG(token_table.MASKED, token_table.NULL, w),
        lambda w: PredictorGuidance(gj.Unconditional(token_table.MASKED, token_table.NULL), token_table.log_masked, w),
        lambda w: gj.guidance.Tempered(token_table.MASKED, w),
    ):
        try:
            found = drawn(gj.Reverse(make(scale), gj.Ancestral()), gj.RectifiedFlow().levels(3), (3,))
        except Refused:
            continue
        assert (found == FAILED).all()


# ---------------------------------------------------------------------------------------------- levels without signal

POINT = jnp.array([0.7, -1.2])


def to_the_point(x, level, cond):
    """The clean sample is known, at every level."""
    return POINT


EVERY_SOLVER = {
    "DDIM": gj.DDIM(),
    "DDIM(1)": gj.DDIM(1.0),
    "DDPM": gj.DDPM(),
    "Heun": gj.Heun(),
    "2M": gj.DPMSolver2M(),
    "2M SDE": gj.DPMSolver2M(1.0),
    "2S": DPMSolver2S(gj.RectifiedFlow()),
    "2S ancestral": DPMSolver2S(gj.RectifiedFlow(), 1.0),
    "DPM2": DPM2(gj.RectifiedFlow()),
    "LMS": LMS(),
    "GLASS": GLASS(gj.RectifiedFlow(), 2),
}


@pytest.mark.release
@pytest.mark.parametrize("name", first(4, EVERY_SOLVER))
def test_every_solver_starts_without_signal(name):
    """The clean sample of a model that knows it; and of a Gaussian what a start just below gives, in the limit."""
    solver = EVERY_SOLVER[name]
    found = drawn(gj.Reverse(gj.Function(to_the_point), solver), DARK, (2,))
    np.testing.assert_allclose(found, np.broadcast_to(POINT, (4, 2)), atol=1e-5)
    model = gj.oracles.Gaussian(jnp.array([0.5, -1.0]), jnp.array([[0.6, 0.2], [0.2, 0.3]]))
    noise = jax.random.normal(jax.random.key(1), (2048, 2))
    cond = jnp.zeros(2048, int)
    dark = drawn(gj.Reverse(model, solver), gj.RectifiedFlow().levels(120, start=1.0), (2,), cond, noise)
    assert np.isfinite(dark).all()
    np.testing.assert_allclose(dark.mean(0), model.mean, atol=0.06)
    np.testing.assert_allclose(np.cov(dark.T), model.covariance, atol=0.1)


@pytest.mark.release
@pytest.mark.parametrize(
    "method",
    first(table.CORE, table.GUIDANCE),
    ids=lambda c: c.__name__,
)
def test_every_method_without_signal_is_right_or_refused(method):
    """Right: what a first level of hardly any signal gives. Refused: gradients, whose limit none of them tells."""
    make = table.GUIDANCE[method].make
    gradients = (
        "Classifier",
        "Reuse",
        "Reconstruction",
        "LGD",
        "Universal",
        "TFG",
        "PiGDM",
        "TMPD",
        "MMPS",
        "Tempered",
    )
    x = jnp.array([[0.3, -0.8], [1.1, 0.4], [-0.2, 0.9], [0.5, 0.5]])
    kernel = gj.Reverse(make(1.7), gj.DDIM())
    if method.__name__ in gradients:
        with pytest.raises(Refused, match="no signal"):
            drawn(kernel, DARK, (2,), x=x)
        off = table.GUIDANCE[method].off
        if method.__name__ != "Tempered":  # switched off there, they are what is inside
            np.testing.assert_allclose(
                drawn(gj.Reverse(make(off), gj.DDIM()), DARK, (2,), x=x),
                drawn(gj.Reverse(table.GUIDANCE[method].identity(table.MIXTURE), gj.DDIM()), DARK, (2,), x=x),
                atol=1e-5,
            )
        return
    if method is Rescale:  # of two entries a standard deviation may be next to nothing: see the limit in float64 below
        assert np.isfinite(drawn(kernel, DARK, (2,), x=x[:3], cond=LABELS[:3])).all()
        return
    near = gj.RectifiedFlow()(jnp.array([1 - 1e-3, *np.asarray(DARK.t[1:])]))
    np.testing.assert_allclose(drawn(kernel, DARK, (2,), x=x), drawn(kernel, near, (2,), x=x), atol=0.05)


def test_a_window_that_ends_below_lets_gradients_start_without_signal():
    bare = gj.Unconditional(table.MIXTURE, table.NULL)
    kernel = gj.Reverse(gj.Classifier(bare, table.log_posterior, gj.Window(2.0, 0.0, 50.0)), gj.DDIM())
    assert np.isfinite(drawn(kernel, DARK, (2,))).all()


@pytest.mark.release
def test_rules_in_the_language_of_noise_have_a_limit():
    """Closer and closer to no signal they tend to what they are there (in float64, where noise still tells)."""
    jax.config.update("jax_enable_x64", True)
    try:
        x = jnp.array([0.3, -0.8, 1.5])
        c, u = jnp.array([1.0, 0.2, -0.5]), jnp.array([-0.4, 0.6, 0.1])
        for make in (Rescale, TCFG, partial(MAMBOG, output=gj.parameterizations.eps)):
            rule = make(None, None, 3.0)

            def at(alpha, rule=rule):
                level = gj.Level(1 - alpha, jnp.asarray(alpha), jnp.asarray(1 - alpha))
                pair = (Prediction.split(x, x0, level) for x0 in (c, u))
                return rule.rule(*pair, 3.0, x, level, ())[0].x0

            limit, errors = at(0.0), [np.abs(at(10.0**-k) - at(0.0)).max() for k in (2, 3, 4)]
            assert np.isfinite(limit).all()
            assert errors[0] > 5 * errors[1] > 25 * errors[2]
    finally:
        jax.config.update("jax_enable_x64", False)


@pytest.mark.release
def test_networks_of_noise_say_nothing_without_signal():
    for output in ("eps", "score"):
        model = gj.Network(jnp.ones(()), small, getattr(gj.parameterizations, output), batched=False)
        with pytest.raises(Refused, match=r"no signal \(alpha = 0"):
            drawn(gj.Reverse(model, gj.DDIM()), DARK, (2,))
    for output in ("v", "velocity", "x0"):
        model = gj.Network(jnp.ones(()), small, getattr(gj.parameterizations, output), batched=False)
        assert np.isfinite(drawn(gj.Reverse(model, gj.DDIM()), DARK, (2,))).all()


def test_zero_init_stands_still_in_every_language():
    level, x = gj.RectifiedFlow()(jnp.array(0.99)), jnp.array([0.3, -0.8])
    pair = [Prediction.split(x, x0, level) for x0 in (jnp.ones(2), jnp.zeros(2))]
    after = gj.RectifiedFlow()(jnp.array(0.9))
    for output in ("velocity", "eps", "x0", "v"):
        rule = gj.guidance.CFGZeroStar(None, None, 3.0, output=getattr(gj.parameterizations, output))
        still = rule.rule(*pair, 3.0, x, level, ())[0]
        np.testing.assert_allclose(gj.DDIM().transition(still, level, after).mean, x, rtol=1e-5)


# ------------------------------------------------------------------------------------------------- steps and grids


def test_one_step_starts_from_noise_or_is_refused():
    betas = gj.schedules.LinearBetas()
    assert float(betas.levels(1).ratio[0]) > 100
    with pytest.raises(Refused, match="write trailing"):
        gj.schedules.spaced(betas, 1, "linspace")
    with pytest.raises(Refused, match="write trailing"):
        gj.schedules.spaced(betas, 1, "leading", 1)
    assert float(gj.schedules.spaced(betas, 1, "trailing").ratio[0]) > 100


@pytest.mark.parametrize("steps", [-3, 0, 10.0, True, "x"])
@pytest.mark.parametrize("schedule", [gj.Cosine(), gj.schedules.LinearBetas()], ids=lambda s: type(s).__name__)
def test_a_number_of_steps_is_a_whole_one(schedule, steps):
    with pytest.raises(Refused):
        schedule.levels(steps)


def test_grids_of_other_samplers():
    """Beta by its quantiles (scipy's), AYS by its table, ComfyUI's simple and sgm_uniform, FLUX's terminal shift."""
    betas, flow = gj.schedules.ScaledLinearBetas(), gj.RectifiedFlow()
    quantiles = [1.0, 0.87708, 0.63730, 0.36270, 0.12292, 0.0]  # of Beta(.6, .6) at 1, .8, ..., 0
    beta = gj.schedules.beta(betas, 6, lo=0.03, hi=14.6)
    np.testing.assert_allclose((beta.ratio[:-1] - 0.03) / 14.57, quantiles, atol=2e-4)
    aligned = gj.schedules.align_your_steps(betas, 10, "sdxl").ratio
    np.testing.assert_allclose(aligned[1:5], [6.315, 3.771, 2.181, 1.342], rtol=1e-3)
    fewer = gj.schedules.align_your_steps(betas, 4).ratio  # at 0, 3, 6 and 9 of the ten
    np.testing.assert_allclose(fewer[1:4], [2.697, 0.963, 0.152], rtol=1e-3)
    assert gj.schedules.simple(betas, 4).t.tolist() == [999, 749, 499, 249, 0]
    np.testing.assert_allclose(gj.schedules.sgm_uniform(betas, 4).t, [999, 749.25, 499.5, 249.75, 0])
    stretched = gj.schedules.shifted(flow, 4, 1.0, start=0.8, terminal=0.1).t  # 1 - t times .9 / .8
    np.testing.assert_allclose(stretched, [0.775, 0.55, 0.325, 0.1, 0], atol=1e-5)
    for bad, message in (
        (lambda: gj.schedules.beta(betas, 6, a=0.0), "a > 0"),
        (lambda: gj.schedules.align_your_steps(betas, 6, "flux"), "sd15, sdxl, svd"),
        (lambda: gj.schedules.simple(flow, 4), "timesteps of a Betas schedule"),
        (lambda: gj.schedules.sgm_uniform(betas, 2000), "there are 1000"),
        (lambda: gj.schedules.shifted(flow, 4, terminal=2.0), "from 0 to 1"),
    ):
        with pytest.raises(Refused, match=message):
            bad()


def test_grids_beyond_a_schedule_say_what_it_has():
    betas = gj.schedules.ScaledLinearBetas()
    with pytest.raises(Refused, match=r"use at most 999 steps, or offset=0"):
        gj.schedules.spaced(betas, 1000, "leading", 1)
    with pytest.raises(Refused, match=r"from 0\.02917 to 14\.61.*write lo=0\.0295, hi=14\.5"):
        gj.schedules.karras(betas, 20, 0.002, 80.0)
    gj.schedules.karras(betas, 20, 0.0295, 14.5)


def test_grids_are_traced():
    for f in (
        lambda a: gj.schedules.karras(gj.schedules.VE(), 5, lo=a),
        lambda a: gj.schedules.log_snr_uniform(gj.Cosine(), 5, hi=10 * a),
        lambda a: gj.schedules.shifted(gj.RectifiedFlow(), 5, shift=a),
    ):
        for traced, known in zip(jax.jit(f)(0.5), f(0.5), strict=True):
            np.testing.assert_allclose(traced, known, rtol=2e-5, atol=1e-6)


@pytest.mark.release
def test_tokens_on_levels_that_do_not_end_clean_are_refused_and_marked_where_traced():
    levels = gj.RectifiedFlow()(jnp.linspace(0.999, 0.2, 5))
    kernel = gj.Reverse(token_table.MASKED, gj.Ancestral())
    with pytest.raises(Refused, match=r"end at sigma = 0\.2"):
        drawn(kernel, levels, (3,))
    found = jax.jit(lambda levels: gj.generate(gj.keys(0, 200), kernel, levels, (3,), jnp.full(200, 3)))(levels)
    found = np.asarray(found)
    assert 0.2 < (found == FAILED).all(1).mean() < 0.8
    assert (((found >= 0) & (found < 3)) | (found == FAILED)).all()


def test_starts_outside_the_vocabulary_are_marked():
    x = jnp.array([[3, 1, 3], [7, 3, 3], [3, -5, 1], [3, 3, 3]])
    found = drawn(gj.Reverse(token_table.MASKED, gj.Ancestral()), gj.RectifiedFlow().levels(3), (3,), x=x)
    assert [bool((row == FAILED).all()) for row in found] == [False, True, True, False]


# ------------------------------------------------------------------------------------------------------------ keys


@pytest.mark.release
@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_keys_of_any_generator_do_not_depend_on_the_batch(impl):
    base = jax.random.key(3, impl=impl)
    kernel, levels = gj.Reverse(table.UNCONDITIONAL, gj.DDIM(1.0)), gj.Cosine().levels(3)
    typed = jax.vmap(lambda i: jax.random.fold_in(base, i))(jnp.arange(6))
    for keys in (gj.keys(base, 6), typed):
        whole = np.asarray(gj.generate(keys, kernel, levels, (2,)))
        alone = np.concatenate([np.asarray(gj.generate(keys[i : i + 2], kernel, levels, (2,))) for i in (0, 2, 4)])
        np.testing.assert_allclose(whole, alone, atol=1e-6)
        assert len(np.unique(whole.round(4), axis=0)) == 6
    steered = gj.SMC(BestOf(kernel, nothing))
    runs = [np.asarray(gj.populations(typed[i : i + 1], steered, levels, (2,), 3).x) for i in range(2)]
    np.testing.assert_allclose(np.concatenate(runs), gj.populations(typed[:2], steered, levels, (2,), 3).x, atol=1e-6)


def test_keys_are_threefry_whatever_the_default():
    before = jax.random.key_data(gj.keys(7, 3))
    with jax.default_prng_impl("rbg"):
        after = gj.keys(7, 3)
    assert jnp.array_equal(jax.random.key_data(after), before)
    assert jnp.array_equal(jax.random.key_data(jax.jit(lambda s: gj.keys(s, 3))(7)), before)
    assert jnp.array_equal(jax.random.key_data(gj.keys(jnp.int32(7), 3)), before)


# ---------------------------------------------------------------------------------------------------- measurements


def whole(x):
    return x


@pytest.mark.parametrize("method", [PiGDM, TMPD, MMPS], ids=lambda c: c.__name__)
def test_measurements_that_cannot_be_used_are_refused_or_show(method):
    model = gj.oracles.Gaussian(jnp.zeros(2), jnp.eye(2))
    levels, y = gj.Cosine().levels(4), jnp.array([[0.5, -0.5], [jnp.nan, 0.2]])
    for std in (0.0, -1.0, jnp.nan, jnp.inf):
        with pytest.raises(Refused):
            drawn(gj.Reverse(method(model, whole, std), gj.DDIM()), levels, (2,), y[:1])
    kernel = gj.Reverse(method(model, whole, 0.1), gj.DDIM())
    with pytest.raises(Refused, match="1 numbers that are not finite"):
        drawn(kernel, levels, (2,), y)
    found = jax.jit(lambda y: gj.generate(gj.keys(0, 2), kernel, levels, (2,), y))(y)
    assert np.isfinite(found[0]).all()
    assert count_failed(found) == 1


@pytest.mark.release
def test_a_missing_pixel_shows_in_every_other_way_to_use_it():
    levels, y = gj.Cosine().levels(4), jnp.array([[0.5, -0.5], [jnp.nan, 0.2]])
    model = gj.oracles.Gaussian(jnp.zeros(2), jnp.eye(2))
    for kernel in (
        DPS(model, gj.DDIM(), whole, 0.1),
        gj.Inpaint(gj.Reverse(model, gj.DDIM()), jnp.array([1, 0])),
        gj.Reverse(gj.Reconstruction(model, GaussianLikelihood(whole, 1.0), 0.1), gj.DDIM()),
    ):
        with pytest.raises(Refused, match="not finite"):
            drawn(kernel, levels, (2,), y)
        found = jax.jit(lambda y, kernel=kernel: gj.generate(gj.keys(0, 2), kernel, levels, (2,), y))(y)
        assert np.isfinite(found[0]).all()
        assert count_failed(found) == 1
    # outside the mask it is nothing
    kernel = gj.Inpaint(gj.Reverse(model, gj.DDIM()), jnp.array([0, 1]))
    assert np.isfinite(drawn(kernel, levels, (2,), y)).all()
    with pytest.raises(Refused, match="mask of Inpaint"):
        drawn(gj.Inpaint(gj.Reverse(model, gj.DDIM()), jnp.array([jnp.nan, 1])), levels, (2,), y[:1])


@pytest.mark.release
def test_samples_that_left_the_data_are_counted():
    """A likelihood too sharp for the clean estimate: finite, and far from anything."""
    model = gj.oracles.Gaussian(jnp.zeros(2), jnp.diag(jnp.array([1.0, 0.3])))
    a = jnp.array([[1.0, 0.5], [-0.3, 1.0]])
    likelihood = GaussianLikelihood(lambda x: a @ x, 0.05)
    y = jnp.tile(jnp.array([0.4, -0.2]), (8, 1))
    found = drawn(gj.Reverse(gj.Reconstruction(model, likelihood), gj.DDIM()), gj.Cosine().levels(30), (2,), y)
    assert count_failed(found) == (np.abs(found).max(1) > 1e6).sum() == 8
    right = drawn(gj.Reverse(MMPS(model, lambda x: a @ x, 0.05), gj.DDIM()), gj.Cosine().levels(30), (2,), y)
    assert count_failed(right) == 0


# ------------------------------------------------------------------------------------- every method by every solver


def outcome(make, solver, levels, x, label):
    """ "refused", "marked" or "finite", of one sample run step by step without compiling."""
    try:
        with jax.disable_jit():
            return (
                "finite"
                if np.isfinite(gj.sample(KEY, gj.Reverse(make(), solver), levels, x, label).x).all()
                else "marked"
            )
    except Refused:
        return "refused"


KEY = jax.random.key(0)
X = jnp.array([0.4, -0.9])


@pytest.mark.release
@pytest.mark.parametrize("name", list(EVERY_SOLVER))
def test_every_pair_of_method_and_solver_at_the_edges(name, measured):
    """No signal, one step, NaN in the network, a strength of NaN, a label outside the table."""
    solver, flow, allowed = EVERY_SOLVER[name], gj.RectifiedFlow(), {}
    one, dark = flow.levels(1), flow.levels(3, start=1.0)
    for method, row in table.GUIDANCE.items():
        make, label = row.make, jnp.array(1)
        found = {
            "no signal": outcome(lambda make=make: make(1.7), solver, dark, X, label),
            "one step": outcome(lambda make=make: make(1.7), solver, one, X, label),
            "a network that says NaN": outcome(
                lambda make=make: make(1.7, SpoiledAfar(table.MIXTURE)), solver, one, 100 * X + 100, label
            ),
            "a strength that is NaN": outcome(lambda make=make: make(jnp.nan), solver, flow.levels(2), X, label),
            "a label outside the table": outcome(lambda make=make: make(1.7), solver, one, X, jnp.array(12)),
        }
        allowed[method.__name__] = found
        assert found["no signal"] in ("finite", "refused"), (method, found)
        assert found["one step"] == "finite", (method, found)
        assert found["a network that says NaN"] == "marked", (method, found)
        assert found["a strength that is NaN"] in ("marked", "refused"), (method, found)
        if method not in (PiGDM, TMPD, MMPS):  # whose measurement is a function of the label, any label's
            assert found["a label outside the table"] in ("marked", "refused"), (method, found)
    for case in next(iter(allowed.values())):
        for what in ("finite", "marked", "refused"):
            measured(f"{name}, {case}: {what}", sum(found[case] == what for found in allowed.values()))
