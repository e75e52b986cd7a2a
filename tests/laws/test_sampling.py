"""Laws of the loop, over every row of the table: one program, one sample at a time, exact derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import guidance_jax as gj
from guidance_jax.sample import _generate
from tests.laws import first
from tests.table import MIXTURE, NULL, UNCONDITIONAL, all_kernels, counting_log_posterior

ROWS = list(all_kernels(2.0))
MECHANISMS = [
    "CFG",
    "APG",
    "Compose",
    "AdaptiveGuidance",
    "Perturbed",
    "Classifier",
    "Reuse",
    "LGD",
    "TFG",
    "MMPS",
    "Heun",
    "DPMSolver2M",
    "LMS",
    "Window",
]
MECHANISMS += ["2S ancestral", "kernel MeanShift", "kernel Recur", "kernel Corrector", "kernel RectifiedCFGPlusPlus"]
CORE = ["APG", "TFG", "DPMSolver2M", "Window", "kernel Recur"]  # memory, gradients, history, skipped work, wrappers
LABELS = jnp.array([0, 1, 2, 1, 0, 2, 2, 1])
LEVELS = gj.Cosine().levels(12)


def generate(kernel, n=8, levels=LEVELS, labels=LABELS):
    return np.asarray(gj.generate(gj.keys(5, n), kernel, levels, (2,), labels[:n]))


@pytest.mark.parametrize("row", first(CORE, ROWS))
def test_nothing_numeric_is_compiled_in(row):
    """One program while scale, labels, grid, schedule and keys change, given as Python or JAX numbers."""
    if row in ("DPM2", "DPMSolver2S", "2S ancestral", "GLASS", "kernel RectifiedCFGPlusPlus"):
        other = gj.Cosine()(jnp.linspace(0.95, 0.0, 13))  # they hold their schedule
    else:
        other = gj.RectifiedFlow()(jnp.linspace(0.9, 0.0, 13))
    generate(all_kernels(2.0)[row])
    before = _generate._cache_size()
    generate(all_kernels(5.0)[row], levels=other, labels=LABELS[::-1])
    generate(all_kernels(jnp.float32(1.5))[row])
    assert _generate._cache_size() <= before
    gj.generate(gj.keys(9, 8), all_kernels(3.0)[row], LEVELS, (2,), LABELS)
    assert _generate._cache_size() <= before


@pytest.mark.parametrize("row", ["CFG", "Classifier", "APG", "kernel DPS", "2M SDE"])
def test_a_sample_depends_on_its_own_key_alone(row):
    """By way of `generate`; of every row next."""
    kernel = all_kernels(2.0)[row]
    whole = generate(kernel)
    alone = gj.generate(gj.keys(5, 1, start=6), kernel, LEVELS, (2,), LABELS[6:7])
    np.testing.assert_allclose(alone[0], whole[6], atol=2e-5, rtol=2e-5)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("row", first(CORE, ROWS))
def test_laws_of_one_program(row):
    """Samples and their derivatives in the strength, in one compiled batch.

    A batch is a loop: a sample does not change when its neighbours and its place do. The derivative, through the whole
    sampler, guidance, noise and all, is the finite difference.
    """
    xs, step = jax.random.normal(jax.random.key(1), (3, 2)), 1e-5
    keys, labels = jax.random.split(jax.random.key(4), 3), LABELS[:3]

    @jax.jit
    def batch(w, keys, xs, labels):
        def one(w, key, x, label):
            x = gj.sample(key, all_kernels(w)[row], LEVELS, x, label).x
            return jnp.sum(x**3), x

        return jax.vmap(jax.value_and_grad(one, has_aux=True), (None, 0, 0, 0))(w, keys, xs, labels)

    (_, samples), gradient = batch(1.3, keys, xs, labels)
    for order in ([1, 2, 0], [0, 0, 0]):
        again = batch(1.3, *(a[jnp.array(order)] for a in (keys, xs, labels)))[0][1]
        np.testing.assert_allclose(again, samples[jnp.array(order)], atol=1e-8)
    above, below = (batch(1.3 + sign * step, keys, xs, labels)[0][0] for sign in (1, -1))
    np.testing.assert_allclose(gradient, (above - below) / (2 * step), rtol=1e-4, atol=1e-6)


EAGER = ("CFG", "Classifier", "TFG", "Heun", "kernel DPS")


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("row", first(EAGER, ROWS))
def test_jit_is_eager(row):
    """One step, operation by operation."""
    xs, keys, labels = jax.random.normal(jax.random.key(1), (3, 2)), jax.random.split(jax.random.key(4), 3), LABELS
    kernel = all_kernels(1.3)[row]
    args = LEVELS.at(3), LEVELS.at(4), labels[0], keys[0]
    with jax.disable_jit():
        carry = kernel.init(xs[0])
        got = kernel(carry, *args).x
    np.testing.assert_allclose(got, jax.jit(lambda *args: kernel(*args))(carry, *args).x, atol=1e-6)  # float32 levels


@pytest.mark.parametrize("row", ROWS)
def test_type_is_kept(row):
    kernel, x = all_kernels(2.0)[row], jnp.zeros(2, jnp.float32)

    def dtype(x):
        run = lambda x: gj.sample(jax.random.key(0), kernel, gj.Cosine().levels(12), x, LABELS[0]).x  # noqa: E731
        return jax.eval_shape(run, x).dtype

    assert dtype(x) == jnp.float32
    jax.config.update("jax_enable_x64", True)
    try:
        assert dtype(jnp.zeros(2, jnp.float64)) == jnp.float64
        assert dtype(x) == jnp.float32
    finally:
        jax.config.update("jax_enable_x64", False)


def test_a_sweep_over_scales_is_one_program_by_vmap():
    sweep = jax.vmap(lambda w: gj.generate(gj.keys(5, 8), all_kernels(w)["CFG"], LEVELS, (2,), LABELS))
    swept = sweep(jnp.array([0.0, 1.0, 4.0]))
    for i, w in enumerate((0.0, 1.0, 4.0)):
        np.testing.assert_allclose(swept[i], generate(all_kernels(w)["CFG"]), atol=2e-5)


def counting():
    """An exact model that counts how often it is really evaluated, and how often it is traced."""
    count = {"runs": 0, "traces": 0}

    def tick():
        count["runs"] += 1

    def x0(x, level, cond):
        count["traces"] += 1
        jax.debug.callback(tick)
        return MIXTURE(x, level, cond, (), None)[0].x0

    return gj.Function(x0), count


def test_cfg_asks_the_network_once_for_both_conditions():
    model, count = counting()
    guided = gj.CFG(model, NULL, 2.0)
    jax.make_jaxpr(lambda x: guided(x, LEVELS.at(0), jnp.array(1), guided.init(x), jax.random.key(0)))(jnp.zeros(2))
    assert count["traces"] == 1


def test_work_outside_the_window_is_skipped_and_the_network_is_inlined_once():
    """12 steps, of which the window holds k: 12 + k evaluations, even under vmap over samples."""
    model, count = counting()
    inside = int(np.sum((np.asarray(LEVELS.ratio[:-1]) > 0.3) & (np.asarray(LEVELS.ratio[:-1]) <= 3.0)))
    assert 0 < inside < 12
    kernel = gj.Reverse(gj.CFG(model, NULL, gj.Window(2.0, 0.3, 3.0)), gj.DDIM())
    jax.block_until_ready(gj.generate(gj.keys(0, 2), kernel, LEVELS, (2,), LABELS[:2]))
    jax.effects_barrier()
    assert count["runs"] == 12 + inside  # the callback has no argument, so it is not batched
    program = jax.jit(lambda k: gj.generate(k, kernel, LEVELS, (2,), LABELS[:2])).lower(gj.keys(0, 2)).as_text()
    assert program.count("custom_call @xla_") == 1  # one callback in the program


@pytest.mark.release
def test_classifier_gradient_is_skipped_at_scale_zero_and_outside_the_window():
    log_prob, count = counting_log_posterior()
    for scale, want in ((0.0, 0), (1.0, 12), (gj.Window(1.0, 1e6, 1e7), 0)):
        count["runs"] = 0
        kernel = gj.Reverse(gj.Classifier(UNCONDITIONAL, log_prob, scale), gj.DDIM())
        jax.block_until_ready(gj.generate(gj.keys(0, 2), kernel, LEVELS, (2,), LABELS[:2]))
        jax.effects_barrier()
        assert count["runs"] == want


def test_record_stacks_what_is_asked_for():
    kernel = all_kernels(2.0)["CFG"]
    carry, xs = gj.sample(jax.random.key(0), kernel, LEVELS, jnp.zeros(2), LABELS[0], record=lambda c: c.x)
    assert xs.shape == (12, 2)
    np.testing.assert_array_equal(xs[-1], carry.x)


def test_one_bad_sample_does_not_kill_a_batch():
    model = gj.Function(lambda x, level, cond: jnp.where(cond == 1, jnp.nan, 0.0) + 0 * x)
    x = gj.generate(gj.keys(0, 3), gj.Reverse(model, gj.DDIM()), LEVELS, (2,), jnp.array([0, 1, 0]))
    assert np.isfinite(x).all(1).tolist() == [True, False, True]


def test_an_edit_is_noise_and_the_way_back():
    """From y of a Gaussian model, at a level that keeps variance: mean alpha^2 y, variance sigma^2 (1 + alpha^2)."""
    model, n = gj.oracles.Gaussian(jnp.zeros(2), jnp.eye(2)), 20_000
    levels = gj.Cosine().levels(200).at(slice(100, None))
    alpha, sigma = float(levels.alpha[0]), float(levels.sigma[0])
    y = jnp.array([1.5, -0.5])
    kernel = gj.kernels.Edit(gj.Reverse(model, gj.DDPM(gj.solvers.fixed_large)), y)
    found = np.asarray(gj.generate(gj.keys(0, n), kernel, levels, (2,)), np.float64)
    error = 4 * sigma / np.sqrt(n)
    np.testing.assert_allclose(found.mean(0), alpha**2 * np.asarray(y), atol=error + 0.005)
    np.testing.assert_allclose(found.var(0), sigma**2 * (1 + alpha**2), rtol=0.05)
    part = gj.kernels.Edit(kernel.inner, y, jnp.array([1, 0]))
    found = gj.generate(gj.keys(0, 100), part, levels, (2,))
    np.testing.assert_allclose(found[:, 0], y[0], atol=1e-6)
    assert found[:, 1].std() > 0.3
    for wrong, message in (
        (gj.kernels.Edit(kernel.inner, jnp.ones(3)), "a picture with the shape of a sample"),
        (gj.kernels.Edit(kernel.inner, y.at[0].set(jnp.nan)), "must be finite, got NaN or infinity"),
        (gj.kernels.Edit(kernel.inner, y, jnp.array([jnp.nan, 1])), "must be finite, got NaN or infinity"),
    ):
        with pytest.raises(gj.Refused, match=message):
            gj.generate(gj.keys(0, 2), wrong, levels, (2,))
