"""Where a method ends: outside its window, switched off, at few steps, nested; each is what it is documented to be."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import guidance_jax as gj
from guidance_jax import discrete
from guidance_jax.core import Prediction, Refused
from guidance_jax.guidance import FDG, MPGD, AdaptiveGuidance, DynamicNegative, GaussianLikelihood
from guidance_jax.inverse import MMPS
from guidance_jax.oracles import Gaussian
from guidance_jax.solvers import LMS
from tests import table, token_table
from tests.laws import first

FAR = gj.Window(3.0, 50.0, 100.0)  # above every level that is asked here

# ------------------------------------------------------------------------------------------------------------ windows


@pytest.mark.parametrize(
    "method",
    first(table.CORE, table.GUIDANCE),
    ids=lambda c: c.__name__,
)
def test_outside_its_window_every_method_is_what_its_row_says(method):
    """The prediction, by every rule that takes a window, beside what the row of the table says it is when off."""
    row = table.GUIDANCE[method]
    if method in (gj.Clip, gj.guidance.DynamicClip):
        return  # of a radius

    if method is gj.guidance.Compose:  # whose weights are a vector, and whose window multiplies them
        guided = gj.Conditioned(method(table.MIXTURE, table.NULL, [1.0, -0.3], table.Outside()), table.two)
    else:
        guided = row.make(table.Outside())
    level, x, label = gj.Cosine()(0.5), jnp.array([0.4, -0.9]), jnp.array(1)
    plain = table.MIXTURE if method is gj.guidance.CFGPlusPlus else row.identity(table.MIXTURE)  # scale 0 is its own
    found = guided(x, level, label, guided.init(x), jax.random.key(0))[0]
    wanted = plain(x, level, label, plain.init(x), jax.random.key(0))[0]
    np.testing.assert_allclose(found.x0, wanted.x0, atol=2e-6)


def test_the_coarse_part_has_a_window_of_its_own():
    """Fine detail off, low on: by hand, with the mean for the coarse part."""
    c, u = jnp.array([3.0, 1.0]), jnp.array([1.0, 0.0])  # difference (2, 1): coarse 1.5, fine (.5, -.5)
    model = gj.Function(lambda x, level, cond: jnp.where(cond == 3, u, c))
    level, x = gj.Cosine()(0.5), jnp.array([0.4, -0.9])
    for scale, low, wanted in (
        (FAR, 4.0, [1 + 6.5, 0 + 5.5]),  # fine as conditional, coarse times four
        (4.0, FAR, [1 + 1.5 + 2.0, 0 + 1.5 - 2.0]),  # coarse as conditional, fine times four
        (FAR, FAR, [3.0, 1.0]),
    ):
        guided = FDG(model, 3, scale, low=low, lowpass=table.mean)
        found = guided(x, level, jnp.array(0), guided.init(x), jax.random.key(0))[0]
        np.testing.assert_allclose(found.x0, wanted, rtol=1e-6)


@pytest.mark.release
def test_dynamic_negative_guidance_is_unconditional_outside_its_window_and_follows_the_posterior_there():
    levels = gj.Cosine().levels(12)
    free = gj.Reverse(gj.Unconditional(table.MIXTURE, table.NULL), gj.DDIM(1.0))
    kernel = gj.Reverse(DynamicNegative(table.MIXTURE, table.NULL, FAR, prior=0.4), gj.DDIM(1.0))
    some = gj.keys(0, 8), levels, (2,), jnp.zeros(8, int)
    np.testing.assert_allclose(
        gj.generate(some[0], kernel, *some[1:]), gj.generate(some[0], free, *some[1:]), atol=1e-5
    )

    def posterior(kernel):
        return (
            gj.sample(jax.random.key(1), kernel, levels, jnp.array([0.4, -0.9]), jnp.array(0))
            .model_state[1]
            .log_posterior
        )

    assert float(posterior(kernel)) != float(np.log(0.4))


# ------------------------------------------------------------------------------------------------- twisted particles

MEAN, VARIANCE, NOISE, SEEN = 0.4, 0.3, 0.5, 1.2
LINE = Gaussian(jnp.array([MEAN]), jnp.array([[VARIANCE]]))


def log_seen(x0, level, cond):
    return -0.5 * jnp.sum((SEEN - x0) ** 2) / NOISE**2


def chain(levels):
    """Mean and variance of what the unguided chain of DDIM(1) ends in: its steps are linear, so they are known."""
    a, s = np.asarray(levels.alpha, np.float64), np.asarray(levels.sigma, np.float64)
    mean, var = 0.0, s[0] ** 2
    for i in range(len(a) - 1):
        gain = a[i] * VARIANCE / (a[i] ** 2 * VARIANCE + s[i] ** 2)  # x0 = m + gain (x - alpha m)
        noise = s[i + 1] ** 2 * (1 - (a[i] * s[i + 1] / (a[i + 1] * s[i])) ** 2)
        eps = np.sqrt(s[i + 1] ** 2 - noise) / s[i]
        slope = a[i + 1] * gain + eps * (1 - a[i] * gain)
        shift = (a[i + 1] - eps * a[i]) * (MEAN - gain * a[i] * MEAN)
        mean, var = slope * mean + shift, slope**2 * var + noise
    return mean, var


PROPOSALS = {
    "gradient of the twist": {},
    "the model": {"proposal": LINE},
    "twice the gradient": {"proposal": gj.Reconstruction(LINE, log_seen, 2.0)},
    "another measurement": {"proposal": MMPS(LINE, lambda x: x, 0.7, observed=lambda cond: jnp.array([0.3]))},
    "a moved point": {"proposal": MPGD(LINE, log_seen, 0.05)},
    "a constant": {"proposal": gj.Function(lambda x, level, cond: 0.5 * x + 0.3)},
}


@pytest.mark.parametrize("steps", first(2, [2, 3, 10]))
@pytest.mark.parametrize("name", first(2, PROPOSALS))
def test_twisted_particles_are_exact_at_any_number_of_steps_with_any_proposal(name, steps, measured):
    """Evidence, mean and variance against the closed form of the unguided chain, a Gaussian times a Gaussian."""
    levels = gj.Cosine().levels(steps, start=0.95)
    mean, var = chain(levels)
    total = var + NOISE**2
    evidence = NOISE / np.sqrt(total) * np.exp(-0.5 * (SEEN - mean) ** 2 / total)
    target = mean + var / total * (SEEN - mean), var - var**2 / total
    kernel = gj.SMC(gj.Twisted(LINE, gj.DDIM(1.0), log_seen, **PROPOSALS[name]))
    found = gj.populations(gj.keys(0, 8), kernel, levels, (1,), 2000)
    ratio = np.exp(np.asarray(found.log_evidence, np.float64)) / evidence
    w = np.exp(np.asarray(found.log_w, np.float64)) / 2000
    x = np.asarray(found.x, np.float64)[..., 0]
    means = (w * x).sum(1)
    variances = (w * x**2).sum(1) - means**2
    for what, values, wanted in (
        ("evidence", ratio, 1.0),
        ("mean", means, target[0]),
        ("variance", variances, target[1]),
    ):
        error = values.std(ddof=1) / np.sqrt(8)
        measured(f"{name}, {steps} steps: {what} off by", abs(values.mean() - wanted))
        assert abs(values.mean() - wanted) < 5 * error + 1e-3, (what, values.mean(), wanted, error)
        assert error < 0.1


@pytest.mark.release
@pytest.mark.parametrize("guide", first(1, ["model", "rates", "gradient"]))
def test_twisted_particles_of_tokens_have_the_enumerated_evidence(guide, measured):
    """E[p(y | x)^scale] over the exact model, by any proposal, in as many steps as there are tokens."""
    bare = gj.Unconditional(token_table.MASKED, token_table.NULL)
    proposal = {
        "model": None,
        "rates": discrete.PredictorGuidance(bare, token_table.log_masked, 2.0),
        "gradient": discrete.TAG(bare, token_table.log_masked, 1.0),
    }[guide]
    kernel = gj.SMC(gj.Twisted(bare, discrete.FirstHitting(), token_table.log_masked, 2.0, proposal, noisy=True))
    found = gj.populations(gj.keys(1, 8), kernel, token_table.LEVELS, (3,), 1000, jnp.ones(8, int))
    p = np.asarray(token_table.JOINT, np.float64).ravel()
    wanted = (p * np.asarray(token_table.CLASSES, np.float64)[:, 1] ** 2).sum()
    ratio = np.exp(np.asarray(found.log_evidence, np.float64)) / wanted
    error = ratio.std(ddof=1) / np.sqrt(8)
    measured(f"{guide}: evidence over the enumerated one", ratio.mean())
    assert abs(ratio.mean() - 1) < 5 * error + 1e-3
    assert error < 0.05


@pytest.mark.release
@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_the_evidence_of_corrected_guidance_is_that_of_its_target(scale):
    """sum p(x)^(1 - w) p(x | y)^w = E[p(y | x)^w] / p(y)^w, enumerated: not E[p(y | x)^w] itself."""
    model = gj.CFG(token_table.MASKED, token_table.NULL, scale)
    kernel = gj.SMC(gj.Corrected(model, discrete.FirstHitting()))
    found = gj.populations(gj.keys(1, 8), kernel, token_table.LEVELS, (3,), 1000, jnp.ones(8, int))
    p = np.asarray(token_table.JOINT, np.float64).ravel()
    given = p * np.asarray(token_table.CLASSES, np.float64)[:, 1]
    wanted = (p ** (1 - scale) * (given / given.sum()) ** scale).sum()
    ratio = np.exp(np.asarray(found.log_evidence, np.float64)) / wanted
    assert abs(ratio.mean() - 1) < 5 * ratio.std(ddof=1) / np.sqrt(8) + 1e-3


# ----------------------------------------------------------------------------------------------- adaptive guidance


def asked(kernel, levels, x, label):
    """At which levels the unconditional model was asked, by the memory after each step."""
    _, on = gj.sample(jax.random.key(0), kernel, levels, x, label, record=lambda carry: carry.model_state[1].on)
    return np.r_[True, np.asarray(on)[:-1]]


@pytest.mark.release
@pytest.mark.parametrize("start", [0.999, 1.0])
def test_adaptive_guidance_asks_until_the_noises_agree_again(start):
    """On every grid: first where they are both x / sigma they agree, which is no reason to stop."""
    levels, threshold = gj.RectifiedFlow().levels(40, start=start), 0.97
    guided = AdaptiveGuidance(table.MIXTURE, table.NULL, 2.0, threshold=threshold)
    x = jnp.array([0.9, -0.6])
    on = asked(gj.Reverse(guided, gj.DDIM()), levels, x, jnp.array(2))
    path = gj.sample(
        jax.random.key(0),
        gj.Reverse(gj.CFG(table.MIXTURE, table.NULL, 2.0), gj.DDIM()),
        levels,
        x,
        jnp.array(2),
        record=lambda carry: carry.x,
    )[1]
    path, cosines = np.concatenate([x[None], path[:-1]]), []
    for point, level in zip(jnp.asarray(path), map(levels.at, range(40)), strict=True):
        c, u = (table.MIXTURE(point, level, jnp.array(label), (), None)[0].eps for label in (2, table.NULL))
        cosines.append(float(jnp.sum(c * u) / jnp.sqrt(jnp.sum(c * c) * jnp.sum(u * u))))
    cosines = np.asarray(cosines)
    assert cosines[0] > threshold  # of noise
    assert cosines.min() < threshold
    first = int(np.argmax(cosines <= threshold))
    again = np.flatnonzero(cosines[first:] > threshold)
    last = first + int(again[0]) if len(again) else 40
    np.testing.assert_array_equal(on, np.arange(40) <= last)  # asked at the level where they agree again, and no more


@pytest.mark.parametrize("threshold", [-1.1, 1.1])
def test_adaptive_guidance_that_never_sees_them_differ_or_agree_is_cfg(threshold):
    levels, x, label = gj.Cosine().levels(10), jnp.array([0.4, -0.9]), jnp.array(1)
    plain = gj.sample(
        jax.random.key(0), gj.Reverse(gj.CFG(table.MIXTURE, table.NULL, 3.0), gj.DDIM()), levels, x, label
    )
    guided = AdaptiveGuidance(table.MIXTURE, table.NULL, 3.0, threshold=threshold)
    found = gj.sample(jax.random.key(0), gj.Reverse(guided, gj.DDIM()), levels, x, label)
    np.testing.assert_allclose(found.x, plain.x, atol=1e-5)


def test_what_stops_asking_is_not_corrected():
    move = gj.Corrected(AdaptiveGuidance(table.MIXTURE, table.NULL, 2.0), gj.DDIM(1.0))
    with pytest.raises(Refused, match="power of two densities, got AdaptiveGuidance"):
        gj.populations(gj.keys(0, 1), gj.SMC(move), gj.Cosine().levels(4), (2,), 4, jnp.zeros(1, int))


# ------------------------------------------------------------------------------------------------------ going back


@pytest.mark.release
def test_going_back_up_forgets_what_was_learned_on_the_way_down():
    """Two slopes at one level are no history; of a known point every solver's memory still ends there."""
    point = jnp.array([0.7, -1.2])
    for solver in (LMS(), gj.DPMSolver2M()):
        kernel = gj.Recur(gj.Reverse(gj.Function(lambda x, level, cond: point), solver), 3)
        found = gj.generate(gj.keys(0, 4), kernel, gj.Cosine().levels(8), (2,))
        np.testing.assert_allclose(found, np.broadcast_to(point, (4, 2)), atol=1e-5)
    model = Gaussian(jnp.array([0.5, -1.0]), jnp.array([[0.6, 0.2], [0.2, 0.3]]))
    found = np.asarray(
        gj.generate(gj.keys(0, 4000), gj.Recur(gj.Reverse(model, LMS()), 2), gj.Cosine().levels(40), (2,))
    )
    np.testing.assert_allclose(found.mean(0), model.mean, atol=0.05)
    np.testing.assert_allclose(np.cov(found.T), model.covariance, atol=0.05)


def test_the_memory_after_going_back_is_that_of_one_way_down():
    guided = gj.guidance.APG(table.MIXTURE, table.NULL, 3.0)
    levels, x, label = gj.Cosine().levels(10), jnp.array([0.4, -0.9]), jnp.array(1)
    once, twice = gj.Reverse(guided, gj.DDIM()), gj.Recur(gj.Reverse(guided, gj.DDIM()), 2)
    begin = once(once.init(x), levels.at(0), levels.at(1), label, jax.random.key(0))
    after = twice(begin, levels.at(1), levels.at(2), label, jax.random.key(1))
    # the running difference is D_c - D_u of the last way down, plus momentum times that of the step before alone
    t = levels.at(1)
    down = jax.random.split(jax.random.split(jax.random.key(1), 2)[0])
    first = once(begin, t, levels.at(2), label, down[0])
    from guidance_jax.kernels.recur import renoise

    back = begin._replace(x=renoise(down[1], first.x, levels.at(2), t))
    last = once(back, t, levels.at(2), label, jax.random.split(jax.random.split(jax.random.key(1), 2)[1])[0])
    np.testing.assert_allclose(after.model_state[1], last.model_state[1], atol=1e-6)


# ------------------------------------------------------------------------------------------------- declared wrongly


def test_clean_guides_are_not_asked_about_noise():
    bare = gj.Unconditional(table.MIXTURE, table.NULL)
    clean = gj.guidance.CleanClassifier(jnp.ones(()), lambda params, x: params * x[0] * jnp.arange(3.0))
    likelihood = GaussianLikelihood(table.line, 0.3)
    levels = gj.Cosine().levels(3)
    for guide in (clean, likelihood, gj.Conditioned(clean, table.another)):
        for kernel in (
            gj.Reverse(gj.Classifier(bare, guide, 1.0), gj.DDIM()),
            gj.MeanShift(bare, gj.DDPM(), guide, 1.0),
            gj.kernels.Split(bare, gj.DDIM(), guide, 1.0),
            gj.embeddings.DiffusionLM(bare, gj.DDPM(), guide, 1.0),
        ):
            with pytest.raises(Refused, match="is for clean samples; write Reconstruction"):
                gj.generate(gj.keys(0, 2), kernel, levels, (2,), jnp.zeros(2, int))
    gj.generate(gj.keys(0, 2), gj.Reverse(gj.Reconstruction(bare, clean), gj.DDIM()), levels, (2,), jnp.zeros(2, int))


def half(params, x, t, cond):
    return 0.5 * params * x


def test_what_the_output_means_has_to_be_said():
    class Module:
        def apply(self, params, x, t, cond):
            return x

    for make in (
        lambda: gj.from_linen(Module(), {"params": {}}),
        lambda: gj.from_equinox(jax.tree_util.Partial(half, jnp.ones(()))),
        lambda: gj.Network(jnp.ones(()), half, batched=False),
    ):
        with pytest.raises(Refused, match="must state what the output means"):
            make()


def test_a_network_explains_what_it_is_and_what_it_is_told():
    domain = gj.Domain((2,), gj.CosineBetas(1000), num_classes=10, null_label=10)
    text = gj.Network(jnp.ones(()), half, gj.parameterizations.v, domain, batched=False).explain()
    for wanted in ("CosineBetas", "V()", "10 classes", "null label 10", "time input 999 ", "time input 0 "):
        assert wanted in text, text
    flow = gj.Network(
        jnp.ones(()), half, gj.parameterizations.velocity_to_data, gj.Domain((2,), gj.RectifiedFlow()), batched=False
    )
    assert "no classes" in flow.explain()
    # sigma / alpha 1 is t = 1/2 of a flow, told turned round
    assert "0.5" in flow.explain()
    assert "any schedule" in gj.Network(jnp.ones(()), half, gj.parameterizations.eps, batched=False).explain()


def network(params, x, t, cond, scale=1.0, perturbation=None):
    return params * x * scale


@pytest.mark.release
def test_a_network_that_traces_both_ways_may_have_options():
    model = gj.Network(jnp.ones(()), network, gj.parameterizations.eps, scale=2.0, batched=False)
    weak = gj.guidance.perturb(dataclasses.replace(model, scale=None), attention=1.0)
    levels = gj.Cosine().levels(3)
    for kernel in (gj.Reverse(gj.guidance.Learned(model, 2.0), gj.DDIM()), gj.Reverse(weak, gj.DDIM())):
        assert np.isfinite(gj.generate(gj.keys(0, 2), kernel, levels, (2,), jnp.zeros(2, int))).all()


def images_first(params, x, t):  # (B, C, H, W), as PyTorch's are
    return jnp.stack([jnp.einsum("bchw,c->b", x, params)] * 3, -1)


def test_networks_of_another_layout_are_one_line():
    bare = gj.Function(lambda x, level, cond: 0.5 * x)
    levels, labels = gj.Cosine().levels(3), jnp.zeros(2, int)
    noisy = gj.NoisyClassifier(jnp.ones(3), images_first, batched=True)
    with pytest.raises(Refused) as caught:
        gj.generate(gj.keys(0, 2), gj.Reverse(gj.Classifier(bare, noisy, 1.0), gj.DDIM()), levels, (4, 4, 3), labels)
    assert "\n" not in str(caught.value)
    clean = gj.guidance.CleanClassifier(jnp.ones(3), lambda params, x: images_first(params, x, None))
    with pytest.raises(Refused) as caught:
        gj.generate(gj.keys(0, 2), gj.Reverse(gj.Reconstruction(bare, clean), gj.DDIM()), levels, (4, 4, 3), labels)
    assert "\n" not in str(caught.value)


def test_labels_in_a_column_are_one_line():
    domain = gj.Domain((2,), gj.Cosine(), num_classes=3)
    model = gj.Network(jnp.ones(()), half, gj.parameterizations.v, domain, batched=False)
    with pytest.raises(Refused, match=r"one integer for one sample, got shape \(1,\)"):
        gj.generate(gj.keys(0, 2), gj.Reverse(model, gj.DDIM()), gj.Cosine().levels(3), (2,), jnp.zeros((2, 1), int))


@pytest.mark.release
def test_rewards_are_paid_at_one_scale():
    """By sample and by class too; a scale that changes from level to level would not add up to its last value."""
    levels, labels = gj.Cosine().levels(3), jnp.array([0, 1])
    kernel = gj.Reverse(table.UNCONDITIONAL, gj.DDIM(1.0))
    for make in (
        lambda w: gj.BestOf(kernel, table.log_clean, w),
        lambda w: gj.Steered(table.UNCONDITIONAL, gj.DDIM(1.0), table.log_clean, w),
    ):

        def run(w, make=make):
            return gj.populations(gj.keys(0, 2), gj.SMC(make(w)), levels, (2,), 3, labels)

        for scale in (gj.Window(1.0, 0.1, 3.0), gj.guidance.Ramp(1.0), lambda level: level.sigma):
            with pytest.raises(Refused, match="the same at every level"):
                run(scale)
        one = [np.asarray(run(w).x) for w in (0.5, 2.0)]
        for scale in (gj.PerSample(jnp.array([0.5, 2.0])), gj.PerClass(jnp.array([0.5, 2.0, 9.0]))):
            found = np.asarray(run(scale).x)
            np.testing.assert_allclose(found[0], one[0][0], atol=1e-5)
            np.testing.assert_allclose(found[1], one[1][1], atol=1e-5)


def test_a_move_in_a_wrapper_of_kernels_is_one_line():
    move = gj.Twisted(table.UNCONDITIONAL, gj.DDIM(1.0), table.log_clean)
    with pytest.raises(Refused, match="must be a kernel, got Twisted"):
        gj.generate(gj.keys(0, 2), gj.Recur(move, 2), gj.Cosine().levels(3), (2,), jnp.zeros(2, int))


def test_functions_of_other_arguments_are_one_line():
    with pytest.raises(Refused, match=r"calls its function as f\(x, level, cond\)"):
        gj.Classifier(table.MIXTURE, lambda x: 0.0, 1.0)
    with pytest.raises(Refused, match=r"f\(log_p, hidden, cond\)"):
        gj.text.PPLM(token_table.GPT, lambda log_p: 0.0)
    with pytest.raises(Refused, match=r"f\(x, level, cond\)"):
        gj.Function(lambda x, level: x)


def test_a_guide_that_takes_no_one_hot_vectors_is_one_line():
    def by_index(x, level, cond):
        return jnp.sum(jnp.arange(4.0)[x])

    kernel = gj.Reverse(discrete.TAG(token_table.MASKED, by_index, 1.0), gj.Ancestral())
    with pytest.raises(Refused, match="one-hot vectors"):
        gj.generate(gj.keys(0, 2), kernel, gj.RectifiedFlow().levels(3), (3,), jnp.zeros(2, int))


def test_known_tokens_for_each_sample_are_one_line():
    kernel = gj.Infill(gj.Reverse(token_table.MASKED, gj.Ancestral()), jnp.full((2, 3), -1))
    with pytest.raises(Refused, match="known='name'"):
        gj.generate(gj.keys(0, 2), kernel, gj.RectifiedFlow().levels(3), (3,), jnp.zeros(2, int))


@pytest.mark.release
@pytest.mark.parametrize(
    "solver", first(1, [gj.solvers.GLASS(gj.Cosine(), 2), LMS(), gj.DPMSolver2M(), gj.Heun()]), ids=repr
)
def test_solvers_run_where_jax_promotes_nothing(solver):
    kernel = gj.Reverse(gj.Function(lambda x, level, cond: x * 0.5), solver)
    plain = gj.generate(gj.keys(0, 2), kernel, gj.Cosine().levels(4), (2,))
    jax.clear_caches()
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        strict = gj.generate(gj.keys(0, 2), kernel, gj.Cosine().levels(4), (2,))
    np.testing.assert_allclose(strict, plain, rtol=1e-6)


# ---------------------------------------------------------------------------------------------------- real vocabularies


@pytest.mark.release
@pytest.mark.parametrize("mask", first([2], [0, 2, 4]))
def test_a_mask_inside_the_vocabulary_is_a_number_like_any_other(mask):
    """The exact model of tokens with their numbers shifted round the mask samples the same sequences, shifted."""
    space = gj.Absorbing(4, mask=mask)
    numbers = jnp.asarray([n for n in range(5) if n != mask][:3]) if mask < 4 else jnp.arange(3)
    outer = token_table.MASKED

    def logits(params, x, t, cond):
        old = jnp.where(x == mask, 3, jnp.argmax(x[:, None] == numbers, -1))  # the number in the exact model
        level = gj.RectifiedFlow()(t)
        log_p = outer(old, level, jnp.array(3), (), None)[0].log_p
        return (
            jnp.full((3, 4), 5.0).at[:, numbers].set(log_p)
            if mask < 4
            else jnp.pad(log_p, ((0, 0), (0, 1)), constant_values=-50.0)
        )

    model = gj.TokenNetwork((), logits, space, batched=False)
    for solver in (gj.Ancestral(), discrete.FirstHitting(), discrete.TauLeap()):
        found = np.asarray(gj.generate(gj.keys(0, 400), gj.Reverse(model, solver), gj.RectifiedFlow().levels(4), (3,)))
        assert (found != mask).all()
        assert (found >= 0).all()
        assert (found < 4).all()
    if mask < 4:
        free = [n for n in range(4) if n != mask]
        assert set(np.unique(found)) <= set(free)


@pytest.mark.release
def test_the_exact_model_of_an_inner_mask_is_that_of_the_outer_one():
    """Rates, transitions and corruption: the same numbers in other places."""
    outer, inner = gj.Absorbing(3), gj.Absorbing(4, mask=1)
    place = np.array([0, 2, 3, 1])  # where states of the outer process are in the inner one
    t, s = gj.RectifiedFlow()(0.7), gj.RectifiedFlow()(0.4)
    log_p = jax.nn.log_softmax(jnp.arange(9.0).reshape(3, 3))
    x = jnp.array([3, 0, 3])
    wide = inner.without_mask(jnp.full((3, 4), 2.0).at[:, place[:3]].set(log_p))
    np.testing.assert_allclose(wide[:, place[:3]], log_p, rtol=1e-5)
    before = outer.transition(discrete.TokenPrediction(x, log_p, outer), t, s).log_q
    after = inner.transition(discrete.TokenPrediction(jnp.asarray(place)[x], wide, inner), t, s).log_q
    np.testing.assert_allclose(after[:, place], before, rtol=1e-5)
    np.testing.assert_allclose(inner.forward(t)[place[:3]][:, place], outer.forward(t), rtol=1e-6)
    with pytest.raises(Refused, match="the mask must be a number from 0 to the vocabulary"):
        gj.Absorbing(4, mask=5)
    with pytest.raises(Refused, match="is the mask"):
        inner.check_tokens(np.array([0, 1]))
    assert gj.Absorbing(3) == gj.Absorbing(3, mask=3)


@pytest.mark.release
def test_text_ends_after_its_end():
    """After the end-of-text token only that token follows; the first token may be the same and ends nothing."""
    model = dataclasses.replace(token_table.GPT, end=0)
    found = np.asarray(
        gj.generate(
            gj.keys(0, 64), gj.Reverse(model, gj.Ancestral()), token_table.TEXT_LEVELS, (6,), jnp.zeros(64, int)
        )
    )
    ended = np.cumsum(found[:, 1:] == 0, 1) > 0
    assert ended.any()
    assert not ended[:, 0].all()
    assert (found[:, 1:][ended] == 0).all()
    plain = np.asarray(
        gj.generate(
            gj.keys(0, 64),
            gj.Reverse(token_table.GPT, gj.Ancestral()),
            token_table.TEXT_LEVELS,
            (6,),
            jnp.zeros(64, int),
        )
    )
    until = np.cumsum(plain[:, 1:] == 0, 1) == 0
    np.testing.assert_array_equal(found[:, 1:][until], plain[:, 1:][until])


def test_predictions_split_the_point():
    """What every solver at a level without signal relies on: the noise is x / sigma there."""
    level = gj.RectifiedFlow()(jnp.array(1.0))
    pred = Prediction.split(jnp.array([0.3]), jnp.array([5.0]), level)
    assert float(pred.eps[0]) == pytest.approx(0.3)


# -------------------------------------------------------------------------------------- sharp measurements as twists


@pytest.mark.release
@pytest.mark.parametrize("noise", first(1, [0.05, 0.5]))
def test_the_twist_of_a_linear_measurement_has_the_exact_evidence(noise, measured):
    """Of a Gaussian, by the closed form of what the chain ends in; the likelihood of the clean estimate collapses."""
    model = Gaussian(jnp.array([0.3, -0.2]), jnp.array([[1.0, 0.3], [0.3, 0.5]]))
    rows, y = jnp.array([[1.0, 0.5], [-0.3, 1.0]]), jnp.array([0.9, 0.1])

    def operator(x):
        return jnp.matmul(rows, x, precision="highest")

    levels, solver = gj.Cosine().levels(150), gj.DDIM(1.0)
    twist = gj.inverse.LinearTwist(model, operator, noise)
    found = gj.populations(
        gj.keys(0, 8), gj.SMC(gj.Twisted(model, solver, twist, noisy=True)), levels, (2,), 200, jnp.tile(y, (8, 1))
    )
    # N(y; A m, A C A^T + s^2 I) without the constant that the likelihood leaves out; the chain is not quite the data
    spread = np.asarray(rows @ model.covariance @ rows.T, np.float64) + noise**2 * np.eye(2)
    gap = np.asarray(y - rows @ model.mean, np.float64)
    wanted = -0.5 * gap @ np.linalg.solve(spread, gap) - 0.5 * np.linalg.slogdet(spread)[1] + 2 * np.log(noise)
    error = np.asarray(found.log_evidence, np.float64) - wanted
    measured(f"std {noise}: log evidence off by", error.mean())
    assert abs(error.mean()) < 0.1
    assert error.std() < 0.15
    assert not np.asarray(found.collapsed).any()
    exact = model.condition(rows, y, noise)
    w = np.exp(np.asarray(found.log_w))[..., None] / 200
    np.testing.assert_allclose((w * np.asarray(found.x)).sum(1).mean(0), exact.mean, atol=0.1 * noise + 0.03)
    if noise < 0.1:
        plain = gj.SMC(gj.Twisted(model, solver, GaussianLikelihood(operator, noise)))
        plain = gj.populations(gj.keys(0, 8), plain, levels, (2,), 200, jnp.tile(y, (8, 1)))
        assert np.asarray(plain.collapsed).any() or (np.asarray(plain.log_evidence) < wanted - 1).all()
