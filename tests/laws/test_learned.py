"""Guidance learned into a network: at the minimum of each loss it is CFG, and a small network gets there."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import guidance_jax as gj
from guidance_jax.guidance import Internal, Learned
from guidance_jax.models import parameterizations
from guidance_jax.training.distillation import Distillation, TrajectoryDistillation
from guidance_jax.training.fit import fit
from guidance_jax.training.guidance_free import GuidanceFree
from guidance_jax.training.internal_heads import InternalHeads
from guidance_jax.training.losses import Denoising
from guidance_jax.training.model_guidance import ModelGuidance
from guidance_jax.training.token_losses import DensityRatioMatching
from tests.table import MIXTURE, NULL, SCHEDULE, Taught
from tests.token_table import MASKED, neighbours

X0 = parameterizations.x0
SCALE = 2.5


def exact(strength):
    """apply: CFG of the mixture at `strength(scale)`, moved by params, an offset and a slope a class: zero is exact."""

    def apply(params, x, t, cond, scale=1.0):
        level = SCHEDULE(t)
        guided = Taught(MIXTURE, strength(scale))(x, level, cond, (), None)[0].x0
        return guided + params[0][cond] + params[1][cond] * x

    return apply


def slope(loss, n=40_000):
    """(mean gradient of the loss at the network given, its standard error), over x0 of the data, labels and levels."""
    labels = jax.random.categorical(jax.random.key(5), jnp.log(jnp.array([0.4, 0.4, 0.2])), shape=(n,))
    x0 = jax.vmap(lambda k, c: MIXTURE.sample(k, 1, c)[0])(jax.random.split(jax.random.key(6), n), labels)
    zero = (jnp.zeros((4, 2)), jnp.zeros((4, 2)))
    each = jax.vmap(jax.grad(loss), (None, 0, 0, 0))(zero, jax.random.split(jax.random.key(7), n), x0, labels)
    each = np.concatenate(each, 1).reshape(n, -1)
    return np.abs(each.mean(0)) / (each.std(0) / n**0.5)


LOSSES = {
    "denoising": (lambda apply: Denoising(apply, SCHEDULE, X0, null=NULL, dropout=0.3), lambda scale: 1.0),
    "model guidance": (
        lambda apply: ModelGuidance(apply, SCHEDULE, X0, null=NULL, dropout=0.3, scale=SCALE),
        lambda scale: SCALE,
    ),
    "guidance-free": (
        lambda apply: GuidanceFree(apply, SCHEDULE, X0, null=NULL, dropout=0.3, most=4.0),
        lambda scale: scale,
    ),
}


@pytest.mark.release
@pytest.mark.parametrize("name", LOSSES)
def test_the_minimum_is_the_guided_denoiser(name, measured):
    """The mean gradient is zero there, within four standard errors, and is not for the conditional model."""
    make, strength = LOSSES[name]
    there = slope(make(exact(strength)))
    elsewhere = slope(make(exact(lambda scale: 1.4 * strength(scale))))
    measured("gradient in standard errors", there.max())
    measured("elsewhere", elsewhere.max())
    assert there.max() < 4
    assert elsewhere.max() > 8


@pytest.mark.release
def test_the_minimum_of_density_ratio_matching_is_the_exact_classifier_of_neighbours(measured):
    """Mean gradient over the joint distribution of masks: zero at the exact one, not beside it."""
    sequences, joint = jnp.asarray(MASKED.sequences), jnp.asarray(MASKED.p).ravel()[:, None] * MASKED.classes
    n = 40_000
    drawn = jax.random.categorical(jax.random.key(0), jnp.log(joint.ravel()), shape=(n,))
    x0, labels = sequences[drawn // joint.shape[1]], drawn % joint.shape[1]

    def slope(power):
        def apply(params, x, t):
            classes = jnp.arange(joint.shape[1])
            log_p = jax.vmap(lambda c: neighbours(x, gj.RectifiedFlow()(t), c), out_axes=-1)(classes)
            return power * log_p + params

        loss = DensityRatioMatching(apply, gj.Absorbing(3), gj.RectifiedFlow())
        zero = jnp.zeros((3, 3, joint.shape[1]))
        each = jax.vmap(jax.grad(loss), (None, 0, 0, 0))(zero, jax.random.split(jax.random.key(1), n), x0, labels)
        return np.abs(np.mean(each, 0) / np.std(each, 0) * n**0.5)

    there, elsewhere = slope(1.0), slope(0.7)
    measured("gradient in standard errors", there.max())
    measured("elsewhere", elsewhere.max())
    assert there.max() < 4
    assert elsewhere.max() > 8


@pytest.mark.release
def test_a_student_that_says_what_its_teacher_says_has_no_loss():
    """Images and masks; and it has one at another scale."""
    x0, tokens = jnp.array([0.3, 1.2]), jnp.array([0, 2, 1])
    for model, data, label in ((MIXTURE, x0, 1), (MASKED, tokens, 1)):
        schedule = SCHEDULE if model is MIXTURE else gj.RectifiedFlow()
        for wrong in (1.0, 1.3):
            student = Taught(model, wrong=wrong)
            given, scales = (student, gj.CFG(model, NULL, 1.0)), (1.5, 4.0)
            solver = gj.DDIM() if model is MIXTURE else gj.Ancestral()
            along = TrajectoryDistillation(*given, solver, schedule.levels(6), scales)
            for loss in (Distillation(*given, schedule, scales), along):
                found = np.mean([loss(None, jax.random.key(i), data, label) for i in range(8)])
                assert found < 1e-9 if wrong == 1.0 else found > 1e-4


def test_a_trajectory_is_what_sampling_by_the_teacher_passes():
    """The loss of a student that is off by the point itself: the mean square of the guided chain's points."""
    levels, teacher = SCHEDULE.levels(6), gj.CFG(MIXTURE, NULL, 2.0)

    @gj.core.pytree
    class Displaced(gj.core.Denoiser):
        params: object = ()
        scale: object = 1.0

        def __call__(self, x, level, cond, state, key):
            pred = dataclasses.replace(teacher, scale=self.scale)(x, level, cond, teacher.init(x), key)[0]
            return dataclasses.replace(pred, eps=pred.eps + x), state

    loss = TrajectoryDistillation(Displaced(), teacher, gj.DDIM(), levels, (2.0, 2.0))
    key, label = jax.random.key(3), jnp.array(1)
    start = teacher.start(jax.random.split(key, 3)[0], levels, (2,))
    path = gj.sample(key, gj.Reverse(teacher, gj.DDIM()), levels, start, label, record=lambda carry: carry.x)[1]
    passed = jnp.concatenate([start[None], path[:-1]])
    np.testing.assert_allclose(loss((), key, jnp.zeros(2), label), jnp.mean(passed**2), rtol=1e-4)


def small(params, x, t, cond, scale=None):
    """A plain network of (x, t, class, scale)."""
    h = jnp.concatenate([x, jnp.stack([t, jnp.cos(3 * t)]), jax.nn.one_hot(cond, 4), jnp.log(scale)[None]])
    for i, (w, b) in enumerate(params):
        h = h @ w + b
        h = jax.nn.silu(h) if i < len(params) - 1 else h
    return h


def weights(key):
    sizes = [9, 96, 96, 96, 2]
    keys = jax.random.split(key, 4)
    return [(jax.random.normal(k, (a, b)) * (1 / a) ** 0.5, jnp.zeros(b)) for k, a, b in zip(keys, sizes, sizes[1:])]


@pytest.mark.release
@pytest.mark.parametrize("how", ["distilled", "guidance-free"])
def test_a_small_network_learns_all_scales(how, measured):
    """Its error against CFG is a small part of what guidance changes, at scales 1, 2 and 3; one call a step."""
    network = gj.Network(weights(jax.random.key(0)), small, gj.parameterizations.v, scale=1.0, batched=False)
    labels = np.asarray(jax.random.randint(jax.random.key(1), (30_000,), 0, 3))
    x0 = np.asarray(
        jax.vmap(lambda k, c: MIXTURE.sample(k, 1, c)[0])(jax.random.split(jax.random.key(2), 30_000), labels)
    )
    if how == "distilled":
        loss = Distillation(network, gj.CFG(MIXTURE, NULL, 1.0), SCHEDULE, (1.0, 4.0))
    else:
        loss = GuidanceFree(small, SCHEDULE, gj.parameterizations.v, null=NULL, dropout=0.25, most=4.0)
    batches = ((x0[i], labels[i]) for i in np.random.default_rng(0).integers(30_000, size=(4000, 256)))
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, 4000))
    params, _ = fit(loss, network.params, batches, steps=4000, optimizer=optimizer)
    learned = dataclasses.replace(network, params=params)
    levels = SCHEDULE.by_ratio([0.3, 1.0, 3.0])
    shares = []
    for scale in (1.0, 2.0, 3.0):
        error, effect = [], []
        for i in range(3):
            level = levels.at(i)

            def each(x0, label, key, level=level, scale=scale):
                x = level.noise(x0, jax.random.normal(key, (2,)))
                got = Learned(learned, scale)(x, level, label, (), None)[0].x0
                exact, plain = (Taught(MIXTURE, w)(x, level, label, (), None)[0].x0 for w in (scale, 0.0))
                return jnp.sum((got - exact) ** 2), jnp.sum((exact - plain) ** 2)

            found = jax.jit(jax.vmap(each))(x0[:2000], labels[:2000], jax.random.split(jax.random.key(9), 2000))
            error.append(float(jnp.mean(found[0])))
            effect.append(float(jnp.mean(found[1])))
        shares.append(sum(error) / sum(effect))
    for scale, share in zip((1, 2, 3), shares, strict=True):
        measured(f"share of the effect missed at scale {scale}", share)
    assert max(shares) < 0.1
    counted = gj.diagnostics.ledger(gj.Reverse(Learned(learned, 2.0), gj.DDIM()), SCHEDULE.levels(10), (2,), 1)
    assert counted.calls == {"Network": 10}


@pytest.mark.release
def test_internal_guidance_is_autoguidance_of_its_two_heads():
    """A small network with two outputs; one call, counted; a network with one head is refused."""
    params = weights(jax.random.key(4))

    def heads(params, x, t, cond):
        out = small(params, x, t, cond, jnp.ones(()))
        return out, 0.7 * out + 0.1 * x

    v = gj.parameterizations.v
    both = gj.models.TwoHeaded(params, heads, v, batched=False)
    single = [gj.Network(params, lambda *a, i=i: heads(*a)[i], v, batched=False) for i in (0, 1)]
    x, level = jnp.array([0.4, -1.0]), SCHEDULE(0.5)
    got = Internal(both, 2.5)(x, level, 1, (), None)[0]
    expected = gj.Autoguidance(*single, 2.5)(x, level, 1, ((), ()), None)[0]
    np.testing.assert_allclose(got.x0, expected.x0, atol=1e-6)
    kernel = gj.Reverse(Internal(both, 2.5), gj.DDIM())
    assert gj.diagnostics.ledger(kernel, SCHEDULE.levels(7), (2,), 1).calls == {"TwoHeaded": 7}
    loss = InternalHeads(heads, SCHEDULE, v, null=NULL, dropout=0.0, weight=0.25)
    alone = [Denoising(lambda *a, i=i: heads(*a)[i], SCHEDULE, v, null=NULL, dropout=0.0) for i in (0, 1)]
    values = [f(params, jax.random.key(5), x, jnp.array(1)) for f in (loss, *alone)]
    np.testing.assert_allclose(2 * values[0], values[1] + 0.25 * values[2], rtol=1e-5)
    with pytest.raises(gj.Refused, match="needs a TwoHeaded network, got Network"):
        gj.generate(gj.keys(0, 2), gj.Reverse(Internal(single[0], 2.0), gj.DDIM()), SCHEDULE.levels(3), (2,))


def test_what_cannot_be_learned_is_refused():
    with pytest.raises(gj.Refused, match="needs the null label, got null=None"):
        ModelGuidance(small, SCHEDULE, X0)
    with pytest.raises(gj.Refused, match="learns scales from 1 on"):
        GuidanceFree(small, SCHEDULE, X0, null=NULL, most=0.5)
    with pytest.raises(gj.Refused, match="the student of a distillation has a scale, got GaussianMixture"):
        Distillation(MIXTURE, gj.CFG(MIXTURE, NULL, 1.0), SCHEDULE)
    with pytest.raises(gj.Refused, match="the solver"):
        TrajectoryDistillation(Taught(MIXTURE), gj.CFG(MIXTURE, NULL, 1.0), SCHEDULE, SCHEDULE.levels(3))
    with pytest.raises(gj.Refused, match="needs a network with the scale as an input, got GaussianMixture"):
        gj.generate(
            gj.keys(0, 2), gj.Reverse(Learned(MIXTURE, 2.0), gj.DDIM()), SCHEDULE.levels(3), (2,), jnp.zeros(2, int)
        )
