"""What one part may ask of another: wrappers that change nothing are transparent, and wrong combinations are refused.

Every defect of the review of 0.1 (commit 22a9048) that was a wrong sample or a raw error has its test here or in
`laws/test_pairs.py`; each of them failed there.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import guidance_jax as gj
from guidance_jax.core import GaussianDiffusion, as_guide
from guidance_jax.discrete import NOS, TAG, FirstHitting, MaskPredict, TauLeap
from guidance_jax.guidance import (
    APG,
    FDG,
    MPGD,
    TCFG,
    CFGPlusPlus,
    CFGZeroStar,
    Compose,
    DynamicNegative,
    ImplicitClassifier,
    Perturbed,
    Rescale,
    Universal,
)
from guidance_jax.kernels import Corrector, Padded, RectifiedCFGPlusPlus, Split
from guidance_jax.models import Microbatched
from guidance_jax.solvers import DPM2, GLASS, DPMSolver2S
from guidance_jax.text import FUDGE
from tests.laws import first
from tests.laws.test_guidance import KEY, LEVELS, same, see
from tests.parts import BASES, METHODS, NOISY, PREFIX, judge, usual
from tests.table import MIXTURE, NULL, SCHEDULE, UNCONDITIONAL, line, log_clean, log_posterior, point, seen
from tests.thresholds import most_total_variation
from tests.token_table import FLOW, HIDDEN, MASKED, UNIFORM, along, log_masked, log_uniform

LABELS = jnp.array([0, 1, 2, 1])


def identity(part):
    return part


# ---- transparency ------------------------------------------------------------------------------------------------


def draw(kernel, base, seed=0):
    cond = LABELS % 3
    if kernel.population:
        found = gj.populations(gj.keys(seed, 4), kernel, base.levels, base.shape, 6, cond)
        return jnp.concatenate([found.x.reshape(4, -1), found.log_w, found.log_evidence[:, None]], 1)
    return gj.generate(gj.keys(seed, 4), kernel, base.levels, base.shape, cond)


ADAPTERS = {
    "Conditioned": lambda part: gj.Conditioned(part, identity),
    "Conditioned twice": lambda part: gj.Conditioned(gj.Conditioned(part, identity), identity),
    "OnSchedule": lambda part: gj.OnSchedule(part, SCHEDULE),
}


@pytest.mark.release
@pytest.mark.parametrize("space", first(["plane", "masks, hidden", "text"], BASES))
@pytest.mark.parametrize("adapter", first(["Conditioned", "OnSchedule"], ADAPTERS))
def test_adapters_of_models_are_transparent(adapter, space):
    """With and without a method that asks for hidden states inside: the same samples for the same keys."""
    base = BASES[space]
    if adapter == "OnSchedule" and not isinstance(base.model.space, GaussianDiffusion):
        with pytest.raises(gj.Refused, match="OnSchedule is for images or vectors"):
            draw(gj.Reverse(gj.OnSchedule(base.model, SCHEDULE), usual(base.model)), base)
        return
    for method in (identity, METHODS["NOS"]) if isinstance(base.model, gj.core.HiddenStates) else (identity,):
        want, got = (draw(gj.Reverse(method(m), usual(m)), base) for m in (base.model, ADAPTERS[adapter](base.model)))
        np.testing.assert_allclose(got, want, atol=2e-4)


@pytest.mark.release
@pytest.mark.parametrize("space", first(["plane", "masks", "text"], BASES))
def test_the_null_condition_is_the_condition_that_is_null(space):
    base = BASES[space]
    got = draw(gj.Reverse(gj.Unconditional(base.model, NULL), usual(base.model)), base)
    want = gj.generate(
        gj.keys(0, 4), gj.Reverse(base.model, usual(base.model)), base.levels, base.shape, jnp.full(4, NULL)
    )
    np.testing.assert_allclose(got, want, atol=1e-5)


GUIDES = {
    "function": log_posterior,
    "NoisyClassifier": gj.NoisyClassifier((), lambda params, x, t: jnp.arange(3.0) * jnp.sin(x).sum(), batched=False),
    "ImplicitClassifier": ImplicitClassifier(MIXTURE, NULL, SCHEDULE, num_classes=3, points=4, draws=2),
}
OF_GUIDES = {
    "Conditioned": lambda part: gj.Conditioned(part, identity),
    "Microbatched": lambda part: Microbatched(part, 3),
    "OnSchedule": lambda part: gj.OnSchedule(part, SCHEDULE),
    "all": lambda part: gj.Conditioned(gj.OnSchedule(Microbatched(part, 2), SCHEDULE), identity),
}


@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.parametrize("adapter", OF_GUIDES)
def test_adapters_of_guides_are_transparent(adapter, guide):
    """The score too: that of an implicit classifier is the difference of two scores, not a derivative of its value."""
    plain = as_guide(GUIDES[guide])
    adapted, x, level = OF_GUIDES[adapter](plain), jnp.array([0.3, -0.4]), SCHEDULE(0.5)
    for ask in ("log_prob", "score"):
        got, want = (getattr(part, ask)(x, level, jnp.array(1)) for part in (adapted, plain))
        np.testing.assert_allclose(got, want, atol=1e-4)


def test_the_score_of_an_adapted_guide_on_another_schedule_is_that_of_the_guide():
    """x' = x own.alpha / level.alpha brings its factor into the gradient."""
    level, x = gj.VE()(1.3), jnp.array([0.3, -0.4])
    adapted = gj.OnSchedule(as_guide(log_posterior), SCHEDULE)
    np.testing.assert_allclose(adapted.score(x, level, 1), jax.grad(log_posterior)(x, level, 1), atol=1e-5)


@dataclasses.dataclass(frozen=True)
class Counted:
    """How often a score was asked for one sample at a time."""

    calls: list


@gj.pytree
class Recording(gj.Guide):
    """A guide that knows its own score, and that it was asked."""

    record: Counted = gj.static()

    def log_prob(self, x, level, cond):
        raise AssertionError("the score is known; nothing may differentiate the value")

    def score(self, x, level, cond):
        self.record.calls.append(x.shape)
        return -x


@pytest.mark.parametrize("adapter", OF_GUIDES)
def test_adapters_hand_on_the_score_that_a_guide_has(adapter):
    """At 22a9048 they differentiated `log_prob`: the memory that Microbatched saves was gone."""
    record = Counted([])
    kernel = gj.Reverse(gj.Classifier(UNCONDITIONAL, OF_GUIDES[adapter](Recording(record)), 1.0), gj.DDIM())
    x = gj.generate(gj.keys(0, 4), kernel, SCHEDULE.levels(3), (2,), LABELS)
    assert record.calls
    normal = gj.Classifier(UNCONDITIONAL, lambda x, level, cond: -0.5 * jnp.sum(x**2), 1.0)  # its score is -x too
    own = gj.generate(gj.keys(0, 4), gj.Reverse(normal, gj.DDIM()), SCHEDULE.levels(3), (2,), LABELS)
    np.testing.assert_allclose(x, own, rtol=1e-3)


def inside_of(wrapper, key):
    """The key that the kernel inside gets."""
    return jax.random.split(key)[0] if isinstance(wrapper, gj.Inpaint | Corrector) else key


WRAPPERS = {
    "Padded": Padded,
    "Inpaint": lambda k: gj.Inpaint(k, jnp.zeros(2), point),
    "Corrector": lambda k: Corrector(k, MIXTURE, 0.0),
    "Recur": lambda k: gj.Recur(k, 1),
    "Infill": lambda k: gj.Infill(k, jnp.full(3, -1)),
}
PLANE = {
    "Reverse": gj.Reverse(gj.CFG(MIXTURE, NULL, 2.0), gj.DDIM(0.5)),
    "with history": gj.Reverse(MIXTURE, gj.DPMSolver2M(1.0)),
    "MeanShift": gj.MeanShift(UNCONDITIONAL, gj.DDPM(), log_posterior, 1.0),
    "Split": Split(UNCONDITIONAL, gj.Heun(), log_posterior, 1.0),
    "SMC": gj.SMC(gj.Twisted(UNCONDITIONAL, gj.DDIM(1.0), log_clean, 0.5), threshold=0.9),
    "BestOf": gj.SMC(gj.BestOf(gj.Reverse(UNCONDITIONAL, gj.DDIM(1.0)), log_clean)),
}
TOKENS = {
    "Reverse": gj.Reverse(gj.CFG(MASKED, NULL, 2.0), gj.Ancestral()),
    "FirstHitting": gj.Reverse(MASKED, FirstHitting()),
    "MaskPredict": gj.Reverse(MASKED, MaskPredict(1.0)),
    "SMC": gj.SMC(gj.Twisted(gj.Unconditional(MASKED, NULL), FirstHitting(), log_masked, noisy=True), threshold=0.9),
    "Corrected": gj.SMC(gj.Corrected(gj.CFG(MASKED, NULL, 2.0), FirstHitting())),
}


@pytest.mark.release
@pytest.mark.parametrize("wrapper", first(2, WRAPPERS))
def test_wrappers_of_kernels_are_transparent(wrapper):
    """A wrapper that changes nothing: a step, the last weights of a population, and the same start."""
    kernels, levels, shape = (
        (TOKENS, FLOW.levels(3), (3,)) if wrapper == "Infill" else (PLANE, SCHEDULE.levels(3), (2,))
    )
    for name, kernel in kernels.items():
        wrapped = WRAPPERS[wrapper](kernel)
        if kernel.population and wrapper in ("Recur", "Corrector"):
            with pytest.raises(gj.Refused, match="the weights of a population do not account for"):
                gj.populations(gj.keys(0, 2), wrapped, levels, shape, 4, LABELS[:2])
            continue
        event = (4, *shape) if kernel.population else shape
        x = wrapped.start(KEY, levels, event)
        np.testing.assert_array_equal(x, kernel.start(KEY, levels, event))

        got, want = (one_step(part, x, levels, wrapped, part is kernel) for part in (wrapped, kernel))
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5, err_msg=name)


def one_step(part, x, levels, wrapped, inside):
    """One step and the finish; `inside` gives the key that the wrapper would hand on."""

    @jax.jit
    def run(part, x):
        carry = part.init(x)
        key = inside_of(wrapped, KEY) if inside else KEY
        carry = part(carry, levels.at(1), levels.at(2), jnp.array(1), key)
        return part.finish(carry, levels.at(3), jnp.array(1), KEY)

    return run(part, x)


# ---- populations -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [identity, Padded, lambda k: gj.Inpaint(k, jnp.zeros(2), point)])
def test_generate_refuses_a_population_and_says_what_to_write(wrap):
    """At 22a9048 it returned unweighted samples: mean (0.33, 0.44) where the weighted answer is (2.0, 0.3)."""
    move = gj.BestOf(gj.Reverse(UNCONDITIONAL, gj.DDIM(1.0)), log_clean, 3.0)
    with pytest.raises(gj.Refused, match=r"write populations\(keys"):
        gj.generate(gj.keys(0, 4), wrap(gj.SMC(move, threshold=0.0)), SCHEDULE.levels(5), (16, 2), LABELS)
    with pytest.raises(gj.Refused, match="needs a kernel for populations, got Reverse"):
        gj.populations(gj.keys(0, 4), gj.Reverse(MIXTURE, gj.DDIM()), SCHEDULE.levels(5), (2,), 16, LABELS)


@pytest.mark.release
def test_sampling_a_population_by_hand_finishes_its_weights():
    """`sample` itself gives the last weights, so that nobody has to remember to."""
    kernel = gj.SMC(gj.BestOf(gj.Reverse(UNCONDITIONAL, gj.DDIM(1.0)), log_clean, 3.0), threshold=0.0)
    pop = gj.sample(KEY, kernel, SCHEDULE.levels(5), jax.random.normal(KEY, (8, 2)), jnp.array(1))
    rewards = jax.vmap(lambda x: 3.0 * log_clean(x, None, 1))(pop.x)
    np.testing.assert_allclose(pop.log_w, rewards - jax.nn.logsumexp(rewards) + np.log(8), atol=1e-5)


@pytest.mark.release
def test_infilling_around_particles_is_the_exact_conditional():
    """p(x | x_1 = 2) p(y | x)^3 and its evidence: at 22a9048 the last potential was missing around SMC."""
    label, scale, runs, n = 1, 3.0, 20, 5_000
    free = gj.Unconditional(MASKED, NULL)
    move = gj.Twisted(free, FirstHitting(), log_masked, scale, TAG(free, log_masked, scale), noisy=True)
    kernel = gj.Infill(gj.SMC(move), jnp.array([-1, 2, -1]))
    found = gj.populations(gj.keys(0, runs), kernel, FLOW.levels(3), (3,), n, jnp.full(runs, label))
    assert (np.asarray(found.x)[..., 1] == 2).all()
    given = MASKED.target() * (MASKED.sequences[:, 1] == 2)
    weight = np.asarray(MASKED.classes, np.float64)[:, label] ** scale
    target, exact = given * weight / (given * weight).sum(), (given * weight).sum() / given.sum()
    log_w = np.asarray(found.log_w + found.log_evidence[:, None]).ravel()
    distance = MASKED.total_variation(np.asarray(found.x).reshape(-1, 3), target, log_w)
    assert distance <= most_total_variation(target, 20_000)
    evidence = np.exp(np.asarray(found.log_evidence)) / exact
    assert abs(evidence.mean() - 1) < 5 * evidence.std() / np.sqrt(runs)  # t of 19 degrees: one in 12,000


def test_path_weights_are_refused_where_a_wrapper_would_overwrite_what_they_weigh():
    """Gains of `Corrected` do not average to one, so an overwritten entry would leave its gain behind."""
    plane = gj.SMC(gj.Corrected(gj.CFG(MIXTURE, NULL, 2.0), gj.DDIM(1.0)))
    with pytest.raises(gj.Refused, match="path weights of Corrected"):
        gj.populations(
            gj.keys(0, 2), gj.Inpaint(plane, jnp.array([1, 0]), point), SCHEDULE.levels(3), (2,), 4, LABELS[:2]
        )
    uniform = gj.SMC(gj.Corrected(gj.CFG(UNIFORM, NULL, 2.0), gj.Ancestral()))
    with pytest.raises(gj.Refused, match="path weights of Corrected"):
        gj.populations(gj.keys(0, 2), gj.Infill(uniform, jnp.full(3, -1)), FLOW.levels(3), (3,), 4, LABELS[:2])


# ---- spaces, clocks, scales, conditions ---------------------------------------------------------------------------

ON_TOKENS = ["APG", "CFGPlusPlus", "Classifier", "Clip", "TCFG", "MPGD", "Rescale", "FDG", "MAMBOG"]


@pytest.mark.parametrize("name", [*ON_TOKENS, "DynamicNegative", "OnSchedule"])
def test_methods_for_images_refuse_tokens(name):
    with pytest.raises(gj.Refused, match="is for images or vectors, but the model is for masked tokens"):
        gj.generate(gj.keys(0, 2), gj.Reverse(METHODS[name](MASKED), gj.Ancestral()), FLOW.levels(3), (3,), LABELS[:2])


@pytest.mark.parametrize(
    "kernel",
    [
        gj.MeanShift(MASKED, gj.Ancestral(), judge, 1.0),
        Split(MASKED, gj.Ancestral(), judge, 1.0),
        Corrector(gj.Reverse(MASKED, gj.Ancestral()), MASKED, 0.1),
        gj.Recur(gj.Reverse(MASKED, gj.Ancestral()), 2),
        gj.Inpaint(gj.Reverse(MASKED, gj.Ancestral()), jnp.zeros(3)),
    ],
    ids=lambda kernel: type(kernel).__name__,
)
def test_kernels_for_images_refuse_tokens(kernel):
    with pytest.raises(gj.Refused, match="is for images or vectors, but the model is for masked tokens"):
        gj.generate(gj.keys(0, 2), kernel, FLOW.levels(3), (3,), LABELS[:2])


def test_twisted_particles_refuse_a_solver_that_moves_by_something_else():
    """`MaskPredict` inherited a transition that it does not sample: its particles were weighed by another chain."""
    move = gj.Twisted(gj.Unconditional(MASKED, NULL), MaskPredict(1.0), log_masked, noisy=True)
    with pytest.raises(gj.Refused, match="a solver with a transition density, got MaskPredict"):
        gj.populations(gj.keys(0, 2), gj.SMC(move), FLOW.levels(3), (3,), 4, LABELS[:2])


def clocked(schedule):
    """The exact model as a network that only knows the clock of `schedule`."""

    def apply(params, x, t, cond):
        return MIXTURE(x, schedule(t), cond, (), None)[0].x0

    return gj.Network((), apply, gj.parameterizations.x0, batched=False)


@pytest.mark.release
@pytest.mark.parametrize("solver", [DPM2, DPMSolver2S, GLASS])
def test_a_solver_on_another_schedule_than_the_levels_is_refused(solver):
    """It would tell the network another clock at every midpoint: energy distance 3.3 and 0.85, floor 0.001."""
    levels = SCHEDULE.levels(5)
    with pytest.raises(
        gj.Refused, match=r"calls the network between the levels of VE\(\), but the levels are on another"
    ):
        gj.generate(gj.keys(0, 2), gj.Reverse(clocked(SCHEDULE), solver(gj.VE())), levels, (2,), LABELS[:2])
    x = gj.generate(gj.keys(0, 2), gj.Reverse(clocked(SCHEDULE), solver(SCHEDULE)), levels, (2,), LABELS[:2])
    want = gj.generate(gj.keys(0, 2), gj.Reverse(MIXTURE, solver(SCHEDULE)), levels, (2,), LABELS[:2])
    np.testing.assert_allclose(x, want, atol=1e-4)


def test_other_parts_with_a_schedule_are_compared_with_the_levels():
    implicit = ImplicitClassifier(clocked(SCHEDULE), NULL, gj.VE(), num_classes=3)
    for kernel in (
        RectifiedCFGPlusPlus(MIXTURE, NULL, 1.0, gj.VE()),
        gj.Reverse(gj.Classifier(UNCONDITIONAL, implicit, 1.0), gj.DDIM()),
    ):
        with pytest.raises(gj.Refused, match=r"VE\(\), but the levels are on another schedule"):
            gj.generate(gj.keys(0, 2), kernel, SCHEDULE.levels(5), (2,), LABELS[:2])
    with pytest.raises(gj.Refused, match=r"VE\(\), but the levels are on another schedule"):
        implicit.log_posterior(jnp.array([0.3, -0.4]), SCHEDULE(0.5))  # said (0, 0, 1), exact is (0.39, 0.60, 0.01)
    SCHEDULE.check(gj.Level(jnp.zeros(1), jnp.ones(1), jnp.zeros(1)), "nothing is noisy")
    domain = gj.Domain((2,), SCHEDULE, 3, NULL)
    owned = dataclasses.replace(clocked(SCHEDULE), domain=domain)
    with pytest.raises(gj.Refused, match=r"got schedule=VE\(\), but the model was trained on Cosine"):
        ImplicitClassifier(owned, NULL, gj.VE()).log_posterior(jnp.array([0.3, -0.4]), gj.VE()(0.5))


@pytest.mark.parametrize("name", ["CFG", "APG", "Classifier", "Reconstruction", "MPGD", "Autoguidance", "DPS"])
def test_strengths_that_would_broadcast_over_the_entries_of_a_sample_are_refused(name):
    w = jnp.array([1.0, 5.0])
    kernel = {
        "CFG": lambda: gj.CFG(MIXTURE, NULL, w),
        "APG": lambda: APG(MIXTURE, NULL, w),
        "Classifier": lambda: gj.Classifier(UNCONDITIONAL, log_posterior, w),
        "Reconstruction": lambda: gj.Reconstruction(UNCONDITIONAL, log_clean, w),
        "MPGD": lambda: MPGD(UNCONDITIONAL, log_clean, w),
        "Autoguidance": lambda: gj.Autoguidance(MIXTURE, UNCONDITIONAL, w),
        "DPS": lambda: gj.inverse.DPS(UNCONDITIONAL, gj.DDIM(), line, w, seen),
    }[name]()
    kernel = kernel if isinstance(kernel, gj.Kernel) else gj.Reverse(kernel, gj.DDIM())
    with pytest.raises(
        gj.Refused, match=r"one number for one sample, got shape \(2,\); for one per class write PerClass"
    ):
        gj.generate(gj.keys(0, 2), kernel, SCHEDULE.levels(3), (2,), LABELS[:2])


@pytest.mark.release
def test_strengths_by_vmap_are_one_per_sample():
    keys, w = gj.keys(0, 3), jnp.array([1.0, 3.0, 5.0])

    def one(key, w):
        return gj.generate(
            key[None], gj.Reverse(gj.CFG(MIXTURE, NULL, w), gj.DDIM()), SCHEDULE.levels(5), (2,), LABELS[:1]
        )

    got = jax.vmap(one)(keys, w)[:, 0]
    for i in range(3):
        np.testing.assert_allclose(got[i], one(keys[i], w[i])[0], atol=1e-5)


@pytest.mark.parametrize("keys", [jax.random.key(0), jax.random.PRNGKey(0)], ids=["key", "PRNGKey"])
def test_one_key_is_refused_with_what_to_write(keys):
    with pytest.raises(gj.Refused, match=r"keys must be a vector, one per sample, got .* write keys\(0, n\)"):
        gj.generate(keys, gj.Reverse(MIXTURE, gj.DDIM()), SCHEDULE.levels(5), (2,), LABELS)


def test_weights_of_a_composition_may_be_a_list():
    two = jnp.stack([LABELS, (LABELS + 1) % 3], 1)
    samples = [
        gj.generate(gj.keys(0, 4), gj.Reverse(Compose(MIXTURE, NULL, w), gj.DDIM()), SCHEDULE.levels(5), (2,), two)
        for w in ([1.0, -0.5], jnp.array([1.0, -0.5]))
    ]
    np.testing.assert_array_equal(*samples)
    inside = gj.Window(1.0, 0.5, 1.0)
    for level in LEVELS:
        want = [1.0, -0.5] if 0.5 < level.ratio <= 1.0 else [0.0, 0.0]
        got = see(Compose(MIXTURE, NULL, [1.0, -0.5], inside), level, label=two[0])
        same(got, see(Compose(MIXTURE, NULL, want), level, label=two[0]))


def test_no_default_switches_a_method_off():
    """The plain constructor is the paper's method."""
    for make in (
        lambda: Universal(MIXTURE, log_clean),  # a rate
        lambda: gj.Recur(gj.Reverse(MIXTURE, gj.DDIM())),  # repeats
        lambda: Perturbed(MIXTURE, NULL, 2.0),  # a weak model and its strength
    ):
        with pytest.raises(TypeError, match="missing"):
            make()
    still = see(CFGZeroStar(MIXTURE, NULL, 4.0), gj.VE()(30.0))
    np.testing.assert_allclose(still.eps - still.x0, 0, atol=1e-5)
    assert np.abs(see(CFGZeroStar(MIXTURE, NULL, 4.0), gj.VE()(20.0)).eps).max() > 0


# ---- channels that are not guided ----------------------------------------------------------------------------------

DOMAIN = gj.Domain((2,), None, 3, NULL, guided_channels=1)


def channels(guided):
    """The exact model of two channels, of which the first alone is guided if so."""

    def apply(params, x, t, cond):
        return MIXTURE(x, SCHEDULE(t), cond, (), None)[0].x0

    return gj.Network((), apply, gj.parameterizations.x0, DOMAIN if guided else None, batched=False)


def weak(model):
    return gj.Conditioned(model, lambda cond: (cond + 1) % 3)


CONTRASTS = {
    "CFG": lambda m: gj.CFG(m, NULL, 3.0),
    "APG": lambda m: APG(m, NULL, 3.0),
    "TCFG": lambda m: TCFG(m, NULL, 3.0),
    "Rescale": lambda m: Rescale(m, NULL, 3.0),
    "CFGPlusPlus": lambda m: CFGPlusPlus(m, NULL, 0.6),
    "FDG": lambda m: FDG(m, NULL, 3.0, lowpass=lambda x: jnp.full_like(x, x.mean())),
    "Perturbed": lambda m: Perturbed(m, NULL, 3.0, weak(m), 1.0),
    "Autoguidance": lambda m: gj.Autoguidance(m, weak(m), 3.0),
    "Compose": lambda m: gj.Conditioned(Compose(m, NULL, [3.0, -1.0]), lambda c: jnp.stack([c, (c + 1) % 3], -1)),
}


@pytest.mark.parametrize("name", CONTRASTS)
def test_channels_that_are_not_guided_stay_the_conditional_ones(name):
    """The guided channel is that of the whole guidance, the other that of the model."""
    level = SCHEDULE(0.5)
    got, own, whole = (
        see(m, level) for m in (CONTRASTS[name](channels(True)), channels(True), CONTRASTS[name](channels(False)))
    )
    np.testing.assert_allclose(got.x0, jnp.stack([whole.x0[0], own.x0[1]]), rtol=1e-5)
    assert abs(float(whole.x0[1] - own.x0[1])) > 1e-3  # the law would not see a method that guides nothing


def test_channels_that_are_not_guided_stay_those_of_the_model_that_is_guided():
    """Of negative guidance that is the unconditional one: its condition is what to avoid."""
    level = SCHEDULE(0.5)
    got = see(DynamicNegative(channels(True), NULL, 5.0, prior=0.4), level)
    np.testing.assert_allclose(got.x0[1], see(gj.Unconditional(channels(True), NULL), level).x0[1], rtol=1e-5)


@pytest.mark.release
def test_kernels_and_moves_leave_the_channels_alone_that_are_not_guided():
    """By 0.5 and 0.7 they moved at 22a9048. One step: the second channel is that of the conditional model."""
    t, s, x = SCHEDULE(0.7), SCHEDULE(0.55), jnp.array([0.3, -0.4])
    model, label = channels(True), jnp.array(1)
    rectified = RectifiedCFGPlusPlus(model, NULL, 3.0, SCHEDULE)
    plain = gj.Reverse(model, gj.DDIM())
    got, want = (k(k.init(x), t, s, label, KEY).x for k in (rectified, plain))
    np.testing.assert_allclose(got[1], want[1], rtol=1e-5)
    assert abs(float(got[0] - want[0])) > 1e-2
    move = gj.Corrected(gj.CFG(model, NULL, 3.0), gj.DDIM(1.0))
    found, _ = move.potential(x, move.init(x), t, label, KEY)
    moved, _, gain = move.propose(found, t, s, label, KEY)
    conditional = gj.DDIM(1.0).transition(see(model, t, x=x), t, s)
    np.testing.assert_allclose(moved[1], conditional.draw(KEY)[1], rtol=1e-5)
    alone = gj.Corrected(gj.CFG(channels(False), NULL, 3.0), gj.DDIM(1.0))
    found, _ = alone.potential(x, alone.init(x), t, label, KEY)
    assert abs(float(gain - alone.propose(found, t, s, label, KEY)[2])) > 1e-3


# ---- in turn ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["CFG", "APG", "Rescale", "Perturbed", "CFGPlusPlus", "FDG"])
def test_conditions_in_turn_are_the_same_guidance_and_really_in_turn(name):
    """`Perturbed` accepted it and asked both at once: in turn, the model is inside a scan."""
    together = CONTRASTS[name](MIXTURE)
    turn = dataclasses.replace(together, in_turn=True)
    same(see(turn, SCHEDULE(0.5)), see(together, SCHEDULE(0.5)))
    x = jnp.array([0.3, -0.4])
    text = str(jax.make_jaxpr(lambda x: turn(x, SCHEDULE(0.5), jnp.array(1), turn.init(x), KEY)[0].x0)(x))
    assert "scan[" in text


# ---- hidden states, prefixes --------------------------------------------------------------------------------------


@pytest.mark.release
def test_hidden_states_are_found_through_adapters_and_refused_elsewhere():
    model = gj.Conditioned(gj.Unconditional(HIDDEN, NULL), identity)
    x = gj.generate(gj.keys(0, 2), gj.Reverse(NOS(model, along, 1.0), TauLeap()), FLOW.levels(3), (3,), LABELS[:2])
    assert x.shape == (2, 3)
    with pytest.raises(gj.Refused, match="a denoiser with hidden states, got Unconditional of Enumerated"):
        gj.generate(
            gj.keys(0, 2), gj.Reverse(NOS(gj.Unconditional(MASKED, NULL), along, 1.0), TauLeap()), FLOW.levels(3), (3,)
        )
    assert isinstance(model, gj.core.HiddenStates)


def test_guides_of_another_space_are_refused():
    for message, kernel, levels, shape in (
        (
            "PrefixClassifier is for text, but the model is for images or vectors",
            gj.Reverse(gj.Classifier(UNCONDITIONAL, PREFIX, 1.0), gj.DDIM()),
            SCHEDULE.levels(3),
            (2,),
        ),
        (
            "PrefixClassifier is for text, but the model is for masked tokens",
            gj.Reverse(TAG(MASKED, PREFIX, 1.0), TauLeap()),
            FLOW.levels(3),
            (3,),
        ),
        (
            "the future of FUDGE must be PrefixGuide, got NoisyClassifier",
            gj.Reverse(FUDGE(BASES["text"].model, NOISY, 1.0), gj.Ancestral()),
            gj.positions(4),
            (4,),
        ),
    ):
        with pytest.raises(gj.Refused, match=message):
            gj.generate(gj.keys(0, 2), kernel, levels, shape, LABELS[:2])


@pytest.mark.release
def test_the_classifier_of_uniform_tokens_is_bayes_rule_on_the_joint():
    """p(y | x_t) by a sum over all 27 sequences, each token kept with probability alpha or else drawn of the three."""
    x, alpha = np.array([0, 1, 2]), 0.5
    kept = np.prod(np.where(UNIFORM.sequences == x, alpha + (1 - alpha) / 3, (1 - alpha) / 3), 1)
    joint = kept * np.asarray(UNIFORM.p, np.float64).ravel()
    expected = joint @ np.asarray(UNIFORM.classes, np.float64) / joint.sum()
    found = [log_uniform(jnp.asarray(x), FLOW(alpha), label) for label in range(3)]
    np.testing.assert_allclose(np.exp(found), expected, atol=1e-6)
