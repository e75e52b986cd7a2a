"""Flow maps: exact for a Gaussian, at the minimum of their loss, and learned of a guided teacher."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import guidance_jax as gj
from guidance_jax.finetune.consistency import Consistency
from guidance_jax.finetune.mean_flow import MeanFlow
from guidance_jax.guidance import ThroughMap
from guidance_jax.kernels import MapSteps
from guidance_jax.models import FlowMap
from guidance_jax.oracles.energy import energy_distance
from guidance_jax.training.fit import fit
from tests.laws import first
from tests.table import MIXTURE, NULL

MEAN, STD = jnp.array([0.7, -0.4]), 0.5
FLOW = gj.RectifiedFlow()


def spread(t):
    return jnp.sqrt((1 - t) ** 2 * STD**2 + t**2)


def exact(params, x, t, s, cond):
    """The average velocity of the flow of N(MEAN, STD^2 I): standard scores are kept; params move it by x and 1."""
    z = (x - (1 - t) * MEAN) / spread(t)
    gap = jnp.where(t == s, 1.0, t - s)
    jumped = (x - (1 - s) * MEAN - spread(s) * z) / gap
    slope = (-(1 - t) * STD**2 + t) / spread(t)
    return jnp.where(t == s, -MEAN + slope * z, jumped) + params[0] + params[1] * x


ZERO = (jnp.zeros(2), jnp.zeros(2))
MAP = FlowMap(ZERO, exact)
GAUSSIAN = gj.oracles.Gaussian(MEAN, STD**2 * jnp.eye(2))


@pytest.mark.parametrize("kernel", [MapSteps(MAP), MapSteps(MAP, fresh=True)])
@pytest.mark.parametrize("levels", [FLOW.levels(1, start=1.0), FLOW.levels(4, start=1.0), gj.Cosine().levels(3)])
def test_an_exact_map_samples_exactly_in_any_number_of_steps(kernel, levels):
    x = np.asarray(gj.generate(gj.keys(0, 40_000), kernel, levels, (2,)))
    np.testing.assert_allclose(x.mean(0), MEAN, atol=0.01)
    np.testing.assert_allclose(x.std(0), STD, atol=0.01)


@pytest.mark.parametrize("level", [FLOW(0.6), gj.Cosine()(0.4)])
def test_a_map_is_the_denoiser_of_its_flow_on_any_schedule(level):
    x = jnp.array([0.3, 1.1])
    got, expected = (m(x, level, None, (), None)[0] for m in (MAP, GAUSSIAN))
    np.testing.assert_allclose(got.x0, expected.x0, atol=1e-5)
    np.testing.assert_allclose(got.eps, expected.eps, atol=1e-5)


@pytest.mark.release
@pytest.mark.parametrize("how", first(1, [MeanFlow, Consistency]))
@pytest.mark.parametrize("teacher", [None, GAUSSIAN])
def test_the_exact_map_is_the_minimum_of(how, teacher, measured):
    """With a teacher the loss itself is zero; without, its mean gradient is, and is not for another flow's map."""
    n = 20_000
    x0 = MEAN + STD * jax.random.normal(jax.random.key(0), (n, 2))
    loss = how(exact, teacher)
    keys = jax.random.split(jax.random.key(1), n)
    if teacher is not None:
        values = jax.vmap(loss, (None, 0, 0, None))(ZERO, keys, x0, jnp.array(0))
        wrong = jax.vmap(loss, (None, 0, 0, None))((jnp.full(2, 0.2), jnp.zeros(2)), keys, x0, jnp.array(0))
        measured("loss", jnp.mean(values))
        measured("elsewhere", jnp.mean(wrong))
        assert float(jnp.mean(values)) < (1e-6 if how is MeanFlow else 1e-3 * float(jnp.mean(wrong)))
        return

    def errors(params):
        each = np.concatenate(jax.vmap(jax.grad(loss), (None, 0, 0, None))(params, keys, x0, jnp.array(0)), 1)
        return np.abs(each.mean(0) / each.std(0)).max() * n**0.5

    there, elsewhere = errors(ZERO), errors((jnp.full(2, 0.2), jnp.zeros(2)))
    measured("gradient in standard errors", there)
    measured("elsewhere", elsewhere)
    assert there < 4
    assert elsewhere > 8


@pytest.mark.release
def test_a_reward_through_the_map_is_the_reward_of_where_the_flow_ends():
    """Its gradient by finite differences; guidance by it moves samples, at scale 0 it does not."""

    def reward(x0, level, cond):
        return -jnp.sum((x0 - 1.0) ** 2)

    guide = ThroughMap(reward, MAP)
    x, level = jnp.array([0.3, 1.1]), FLOW(0.6)
    ends = lambda x: reward(MAP.jump(x, level, FLOW(0.0), None), None, None)  # noqa: E731
    differences = [(ends(x.at[i].add(1e-2)) - ends(x.at[i].add(-1e-2))) / 2e-2 for i in range(2)]
    np.testing.assert_allclose(guide.score(x, level, None), differences, rtol=1e-2)
    kernel = lambda w: gj.Reverse(gj.Classifier(GAUSSIAN, guide, w), gj.DDIM())  # noqa: E731
    levels = FLOW.levels(20, start=0.95)
    plain, off, on = (
        np.asarray(gj.generate(gj.keys(0, 500), k, levels, (2,)))
        for k in (gj.Reverse(GAUSSIAN, gj.DDIM()), kernel(0.0), kernel(1.0))
    )
    np.testing.assert_allclose(off, plain, atol=1e-5)
    assert np.sum((on - 1) ** 2) < 0.6 * np.sum((plain - 1) ** 2)


def small(params, x, t, s, cond):
    h = jnp.concatenate([x, jnp.stack([t, s, t - s, jnp.cos(3 * t), jnp.cos(3 * s)]), jax.nn.one_hot(cond, 4)])
    for i, (w, b) in enumerate(params):
        h = h @ w + b
        h = jax.nn.silu(h) if i < len(params) - 1 else h
    return h


@pytest.mark.release
def test_a_small_map_learns_a_guided_flow(measured):
    """CFG of scale 2 on the mixture: two jumps of the map beside 2 and 64 steps of the guided flow itself."""
    sizes, keys = [11, 128, 128, 128, 2], jax.random.split(jax.random.key(0), 4)
    params = [(jax.random.normal(k, (a, b)) / a**0.5, jnp.zeros(b)) for k, a, b in zip(keys, sizes, sizes[1:])]
    labels = np.asarray(jax.random.randint(jax.random.key(1), (30_000,), 0, 3))
    draw = jax.jit(jax.vmap(lambda k, c: MIXTURE.sample(k, 1, c)[0]))
    x0 = np.asarray(draw(jax.random.split(jax.random.key(2), 30_000), labels))
    guided = gj.CFG(MIXTURE, NULL, 2.0)
    batches = ((x0[i], labels[i]) for i in np.random.default_rng(0).integers(30_000, size=(4000, 256)))
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, 4000))
    learned, _ = fit(MeanFlow(small, guided), params, batches, steps=4000, optimizer=optimizer)
    n, label = 4000, jnp.full(4000, 1)

    def drawn(kernel, steps, seed=0):
        return np.asarray(gj.generate(gj.keys(seed, n), kernel, FLOW.levels(steps, start=0.999), (2,), label))

    flow = drawn(gj.Reverse(guided, gj.Heun()), 64, seed=1)
    found = {
        "map, 2 jumps": float(energy_distance(flow, drawn(MapSteps(FlowMap(learned, small)), 2))),
        "CFG, 2 steps": float(energy_distance(flow, drawn(gj.Reverse(guided, gj.DDIM()), 2))),
        "CFG, 64 steps": float(energy_distance(flow, drawn(gj.Reverse(guided, gj.Heun()), 64))),
    }
    for what, value in found.items():
        measured(what, value)
    assert found["map, 2 jumps"] < 0.1 * found["CFG, 2 steps"]


def test_what_is_no_map_is_refused():
    levels = FLOW.levels(2, start=1.0)
    with pytest.raises(gj.Refused, match="MapSteps needs a FlowMap, got Gaussian"):
        gj.generate(gj.keys(0, 2), MapSteps(GAUSSIAN), levels, (2,))
    kernel = gj.Reverse(gj.Classifier(GAUSSIAN, ThroughMap(lambda x, level, cond: x[0], GAUSSIAN), 1.0), gj.DDIM())
    with pytest.raises(gj.Refused, match="needs a FlowMap as `flow`, got Gaussian"):
        gj.generate(gj.keys(0, 2), kernel, levels, (2,))
