"""Autoregressive flows: exact densities and inverses, the authors' numbers, and guidance beside its closed form."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import guidance_jax as gj
from guidance_jax.flows import (
    AffineGuidance,
    AutoregressiveFlow,
    CacheGuidance,
    DrawPatch,
    InfillPatches,
    PatchByPatch,
    decode,
    importance,
    patch_levels,
    patchify,
    remove_noise,
    unpatchify,
)
from guidance_jax.sample import _generate
from guidance_jax.zoo.tarflow import TarFlow, flow, tarflow

GOLDEN = Path(__file__).parent.parent / "golden"
KEY = jax.random.key(0)


def run(model, z, label, blocks, solver=None):
    """What sampling makes of the noise z."""
    kernel = gj.Reverse(model, PatchByPatch() if solver is None else solver)
    return gj.sample(KEY, kernel, patch_levels(len(z), blocks), z, label)


def shaken():
    """A small flow whose every layer matters, of three blocks and five classes; 5 means "none"."""
    network = TarFlow((4, 6, 1), 2, width=16, blocks=3, layers=2, num_classes=5, head=8)
    params = network.init(jax.random.key(0), 0, jnp.zeros((6, 4)))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    params = jax.tree.unflatten(
        tree, [a + 0.1 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    )
    params["params"]["blocks"]["proj_out"] = jax.tree.map(lambda a: 0.3 * a, params["params"]["blocks"]["proj_out"])
    return flow(network, params)


FLOW = shaken()
Z = jax.random.normal(jax.random.key(2), (6, 4))


# ---- the flow ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("label", [2, 5])
def test_encoding_inverts_sampling_and_knows_its_determinant(label):
    """z -> x -> z to 1e-5; the log-determinant is that of the Jacobian of the whole map."""
    carry = run(FLOW, Z, jnp.array(label), 3)
    z, log_det = FLOW.encode(carry.x, jnp.array(label))
    assert np.abs(carry.x - Z).max() > 0.5
    np.testing.assert_allclose(z, Z, atol=1e-5)
    jacobian = jax.jacobian(lambda x: FLOW.encode(x, jnp.array(label))[0])(carry.x).reshape(24, 24)
    np.testing.assert_allclose(log_det, jnp.linalg.slogdet(jacobian)[1], atol=1e-4)
    np.testing.assert_allclose(carry.solver_state, -log_det, atol=1e-5)
    np.testing.assert_allclose(
        FLOW.log_prob(carry.x, jnp.array(label)),
        jnp.sum(jax.scipy.stats.norm.logpdf(Z)) + jnp.linalg.slogdet(jacobian)[1],
        atol=1e-4,
    )


@pytest.mark.slow
def test_a_step_sees_what_the_whole_block_sees():
    """The cache is exact: rows of `apply` one by one, in every block."""
    x = 0.5 * Z
    for block in range(3):
        a, b = FLOW.apply(FLOW.params, block, x, jnp.array(1), 1.0)
        cache = FLOW.blank(6)
        for i in range(6):
            own_a, own_b, cache = FLOW.step(FLOW.params, jnp.array(block), x[i], jnp.array(i), cache, jnp.array(1), 1.0)
            np.testing.assert_allclose(own_a, a[i], atol=1e-5)
            np.testing.assert_allclose(own_b, b[i], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("segments", [1, 2, 3])
def test_parallel_decoding_ends_at_the_sequential_result(segments):
    """As many repetitions as a segment has patches are exact, guided or not; one is not."""
    label, want = jnp.array(3), run(FLOW, Z, jnp.array(3), 3).x
    exact = {"repeats": 6 // segments, "segments": segments}
    np.testing.assert_allclose(decode(FLOW, Z, label, **exact), want, atol=1e-5)
    assert np.abs(decode(FLOW, Z, label, repeats=1, segments=segments) - want).max() > 1e-3
    guided = run(gj.CFG(FLOW, 5, 1.7), Z, label, 3).x
    np.testing.assert_allclose(decode(FLOW, Z, label, null=5, scale=1.7, **exact), guided, atol=1e-4)


def test_scales_labels_and_weights_share_one_program():
    """Other numbers, other keys, other parameters: compiled once for each rule."""
    levels, before = patch_levels(6, 3), _generate._cache_size()
    others = dataclasses.replace(FLOW, params=jax.tree.map(lambda a: 1.1 * a, FLOW.params))
    for scale, label, model in ((1.5, 0, FLOW), (2.5, 4, FLOW), (0.5, 1, others)):
        for make in (gj.CFG, lambda m, null, s: AffineGuidance(m, gj.Unconditional(m, null), s)):
            kernel = gj.Reverse(make(model, 5, scale), PatchByPatch())
            gj.generate(gj.keys(label, 2), kernel, levels, (6, 4), jnp.full(2, label))
    assert _generate._cache_size() - before == 2


# ---- the authors' numbers ------------------------------------------------------------------------------------------


def published():
    """(the flow that the golden numbers are of, those numbers)."""
    state = {}
    shapes = json.loads((GOLDEN / "tarflow.json").read_text())
    for k, name in enumerate(sorted(shapes)):
        n = int(np.prod(shapes[name]))
        value = (0.02 if "proj_out" in name else 0.15) * np.sin(0.37 * np.arange(n) + k)
        value = value + 1 if len(shapes[name]) == 1 and name.endswith(".weight") else value
        state[name] = np.ones(shapes[name]) if name == "var" else value.reshape(shapes[name]).astype(np.float32)
    return state, dict(np.load(GOLDEN / "tarflow.npz"))


def images_of(patches):
    """NCHW, as the authors have it."""
    return np.moveaxis(np.asarray(unpatchify(patches, 2, (8, 8, 3))), -1, 1)


@pytest.mark.slow
def test_encoding_is_the_authors_s():
    state, want = published()
    model = tarflow(state, 2, head=8)
    x = patchify(jnp.moveaxis(jnp.asarray(want["x"]), 1, -1), 2)
    np.testing.assert_array_equal(x, want["patches"])
    np.testing.assert_array_equal(images_of(x), want["x"])
    labels = jnp.where(want["y"] < 0, 5, want["y"])
    z, log_det = jax.vmap(model.encode)(x, labels)
    np.testing.assert_allclose(z, want["encoded"], atol=1e-5)
    np.testing.assert_allclose(log_det / z[0].size, want["log_det_mean"], atol=1e-6)


WAYS = {
    "plain": lambda m: m,
    "unconditional": lambda m: gj.Unconditional(m, 5),
    "guided": lambda m: AffineGuidance(m, gj.Unconditional(m, 5), 2.5),
    "annealed": lambda m: AffineGuidance(m, gj.Unconditional(m, 5), 2.5, annealed=True),
    "a": lambda m: AffineGuidance(m, gj.Unconditional(m, 5), 2.5, what="a"),
    "tempered": lambda m: AffineGuidance(m, gj.Unconditional(dataclasses.replace(m, temperature=1.4), 5), 2.5),
}


@pytest.mark.parametrize("way", WAYS)
def test_sampling_is_the_authors_s(way):
    """The same noise, float32: to 1e-5 of the largest number, 5.9."""
    state, want = published()
    model = WAYS[way](tarflow(state, 2, head=8))
    x = jnp.stack([run(model, jnp.asarray(z), jnp.array(y), 3).x for z, y in zip(want["z"], [1, 4, 0], strict=True)])
    np.testing.assert_allclose(images_of(x), want[way], atol=5e-5)
    if way not in ("plain", "unconditional"):
        assert np.abs(want[way] - want["plain"]).max() > 0.1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("blocks.1.proj_in.bias"), "no tensor blocks.1.proj_in.bias"),
        (lambda s: s.update({"blocks.0.extra": np.ones(2)}), "does not have: blocks.0.extra"),
        (lambda s: s.update({"blocks.2.pos_embed": np.ones((15, 16))}), "blocks.2.pos_embed has shape"),
        (lambda s: s.update({"var": 2 * np.ones((16, 12))}), "prior"),
        (lambda s: s["blocks.0.proj_out.bias"].fill(np.nan), "blocks.0.proj_out.bias"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(change, words):
    state, _ = published()
    change(state)
    with pytest.raises(gj.Refused, match=words.replace(".", r"\.")):
        tarflow(state, 2, head=8)


# ---- guidance beside its closed form -------------------------------------------------------------------------------

LENGTH, NONE = 4, 2
MEANS = np.array([[0.9, -0.4, 0.7, 0.2], [-0.6, 0.5, 0.1, -0.8], [0.0, 0.1, 0.3, -0.1]])
FACTORS = np.stack([np.tril(np.random.default_rng(s).normal(size=(4, 4)) * 0.3, -1) for s in range(3)])
FACTORS = FACTORS + np.stack([np.diag(d) for d in ([0.7, 0.6, 0.8, 0.5], [0.6, 0.8, 0.5, 0.7], [1.0, 0.9, 1.1, 1.0])])


def linear_rows(params, block, x, label, temperature):
    """x = m + L z as an autoregression: patch 0 is N(0, 1), row i is the linear mean of patch i + 1."""
    means, factors = (jnp.asarray(a, x.dtype)[label] for a in params)
    noise = jax.scipy.linalg.solve_triangular(factors, x[:, 0] - means, lower=True)
    seen = jnp.tril(jnp.ones((LENGTH, LENGTH), x.dtype))  # row i knows the noise up to i
    b = jnp.roll(means, -1) + jnp.sum(seen * jnp.roll(factors, -1, 0) * noise, 1)
    return jnp.log(jnp.roll(jnp.diag(factors), -1))[:, None], b[:, None]


def linear_step(params, block, patch, i, cache, label, temperature):
    cache = cache.at[i].set(patch)
    a, b = linear_rows(params, block, cache, label, temperature)
    return a[i], b[i], cache


def linear_blank(length):
    return jnp.zeros((length, 1), jnp.result_type(float))


def gaussian_flow():
    """Two classes and their unconditional model, each a Gaussian in four dimensions; the first patch is standard."""
    means, factors = MEANS.copy(), FACTORS.copy()
    means[:, 0], factors[:, 0, 0] = 0, 1
    domain = gj.Domain((LENGTH, 1), num_classes=2, null_label=NONE)
    params = jnp.asarray(means), jnp.asarray(factors)
    return AutoregressiveFlow(params, linear_rows, linear_step, linear_blank, 1, domain), means, factors


def tilted(means, factors, label, s):
    """(mean, covariance, log evidence) of p_u^(1 - s) p_c^s for Gaussians, in float64."""
    precision = [np.linalg.inv(f @ f.T) for f in factors]
    total = s * precision[label] + (1 - s) * precision[NONE]
    linear = s * precision[label] @ means[label] + (1 - s) * precision[NONE] @ means[NONE]
    covariance = np.linalg.inv(total)
    mean = covariance @ linear

    def log_normaliser(p, m):
        return -0.5 * m @ p @ m + 0.5 * np.linalg.slogdet(p)[1] - 0.5 * LENGTH * np.log(2 * np.pi)

    log_z = s * log_normaliser(precision[label], means[label]) + (1 - s) * log_normaliser(precision[NONE], means[NONE])
    return mean, covariance, log_z - log_normaliser(total, mean)


def test_the_density_of_a_linear_flow_is_that_of_its_gaussian():
    model, means, factors = gaussian_flow()
    x = np.random.default_rng(3).normal(size=(5, LENGTH))
    for label in range(3):
        covariance = factors[label] @ factors[label].T
        want = jax.scipy.stats.multivariate_normal.logpdf(x, means[label], covariance)
        got = jax.vmap(model.log_prob, (0, None))(jnp.asarray(x, jnp.float32)[..., None], jnp.array(label))
        np.testing.assert_allclose(got, want, rtol=1e-4)
        samples = gj.generate(
            gj.keys(1, 40_000),
            gj.Reverse(model, DrawPatch()),
            patch_levels(LENGTH, 1),
            (LENGTH, 1),
            jnp.full(40_000, label),
        )[..., 0]
        np.testing.assert_allclose(np.cov(samples[:, 1:].T), covariance[1:, 1:], atol=0.03)


# the steps of the affine rule are narrower than those of the product: at 2 so narrow that weights have no variance
STRENGTHS = {"product": 2.0, "affine": 1.5}
RULES = {
    "product": lambda model, s: gj.CFG(model, NONE, s),
    "affine": lambda model, s: AffineGuidance(model, gj.Unconditional(model, NONE), s),
}


@pytest.mark.parametrize("rule", RULES)
def test_scale_one_is_the_conditional_flow_and_zero_the_unconditional(rule):
    """Predictions bit for bit, samples up to the rounding of another program."""
    model, _, _ = gaussian_flow()
    z = jax.random.normal(jax.random.key(4), (LENGTH, 1))
    level = patch_levels(LENGTH, 1).at(1)
    for scale, label in ((1.0, jnp.array(1)), (0.0, jnp.array(NONE))):
        guided = RULES[rule](model, scale)
        got = guided(z, level, jnp.array(1), guided.init(z), KEY)[0]
        want = model(z, level, label, model.init(z), KEY)[0]
        np.testing.assert_array_equal(got.mean, want.mean)
        np.testing.assert_array_equal(got.log_std, want.log_std)
        np.testing.assert_allclose(run(guided, z, jnp.array(1), 1).x, run(model, z, label, 1).x, atol=1e-6)


SOLVERS = [PatchByPatch, DrawPatch]


def test_every_solver_writes_the_patches_that_the_noise_says():
    """Of one block the two are one, and a draw of the transition has the distribution that its density says."""
    model, _, _ = gaussian_flow()
    z = jax.random.normal(jax.random.key(6), (LENGTH, 1))
    written = [run(model, z, jnp.array(0), 1, solver()) for solver in SOLVERS]
    np.testing.assert_array_equal(written[0].x, written[1].x)
    level = patch_levels(LENGTH, 1).at(1)
    pred = model(z, level, jnp.array(0), model.init(z), KEY)[0]
    step = DrawPatch().transition(pred, level, level)
    drawn = jax.vmap(step.draw)(jax.random.split(KEY, 20_000))[:, 2, 0]
    np.testing.assert_allclose(drawn.mean(), pred.mean[0], atol=0.03)
    np.testing.assert_allclose(drawn.std(), jnp.exp(pred.log_std[0]), atol=0.02)
    moved = [float(step.log_prob(z.at[2].set(v))) for v in (0.0, 1.0)]
    want = jax.scipy.stats.norm.logpdf(jnp.array([0.0, 1.0]), pred.mean[0], jnp.exp(pred.log_std[0]))
    np.testing.assert_allclose(moved[0] - moved[1], want[0] - want[1], rtol=1e-4)


def test_the_two_rules_are_one_where_the_widths_agree():
    """sigma_c = sigma_u: both means are mu_u + s (mu_c - mu_u)."""
    model, means, _ = gaussian_flow()
    same = dataclasses.replace(model, params=(jnp.asarray(means), jnp.asarray(FACTORS[[0, 0, 0]]).at[:, 0, 0].set(1)))
    z = jax.random.normal(jax.random.key(5), (LENGTH, 1))
    product, affine = (run(make(same, 2.4), z, jnp.array(1), 1).x for make in RULES.values())
    np.testing.assert_allclose(product, affine, atol=1e-5)
    different = [run(make(model, 2.4), z, jnp.array(1), 1).x for make in RULES.values()]
    assert np.abs(different[0] - different[1]).max() > 0.05


def moments(particles):
    """Weighted mean and covariance over all runs."""
    w = np.asarray(jax.nn.softmax(particles.log_w + particles.log_evidence[:, None], None))
    x = np.asarray(particles.x)[..., 0]
    mean = np.einsum("rn,rnd->d", w, x)
    return mean, np.einsum("rn,rnd,rne->de", w, x - mean, x - mean)


@pytest.mark.release
@pytest.mark.parametrize("rule", RULES)
def test_exact_weights_reach_the_tilt_that_both_rules_miss(rule, measured):
    """p_u^(1 - s) p_c^s of two Gaussians: mean, covariance and evidence; five runs of 40,000."""
    model, means, factors = gaussian_flow()
    scale, label = STRENGTHS[rule], 1
    mean, covariance, log_evidence = tilted(means, factors, label, scale)

    def target(x, y):
        return (1 - scale) * model.log_prob(x, jnp.array(NONE)) + scale * model.log_prob(x, y)

    found = importance(
        gj.keys(0, 5),
        gj.Reverse(RULES[rule](model, scale), PatchByPatch()),
        patch_levels(LENGTH, 1),
        (LENGTH, 1),
        40_000,
        jnp.full(5, label),
        log_target=target,
    )
    got_mean, got_covariance = moments(found)
    plain = np.asarray(found.x)[..., 0].reshape(-1, LENGTH)
    bias = np.abs(plain.mean(0) - mean).max(), np.abs(np.cov(plain.T) - covariance).max()
    measured("mean off, guidance alone", bias[0])
    measured("covariance off, guidance alone", bias[1])
    measured("mean off, weighed", np.abs(got_mean - mean).max())
    measured("covariance off, weighed", np.abs(got_covariance - covariance).max())
    measured("log evidence off", float(np.abs(found.log_evidence - log_evidence).max()))
    assert max(bias) > 0.05
    np.testing.assert_allclose(got_mean, mean, atol=0.015)
    np.testing.assert_allclose(got_covariance, covariance, atol=0.02)
    np.testing.assert_allclose(found.log_evidence, log_evidence, atol=0.03)


@pytest.mark.release
@pytest.mark.parametrize("rule", RULES)
def test_the_density_of_a_guided_flow_of_several_blocks_is_known(rule):
    """Weighed by a density whose integral is 1: the evidence is 1, by whatever rule the samples were guided."""

    def target(x, y):
        return FLOW.log_prob(x, y)

    kernel = gj.Reverse(
        {"product": gj.CFG(FLOW, 5, 1.3), "affine": AffineGuidance(FLOW, gj.Unconditional(FLOW, 5), 1.3)}[rule],
        PatchByPatch(),
    )
    found = importance(gj.keys(0, 2), kernel, patch_levels(6, 3), (6, 4), 4000, jnp.array([1, 3]), log_target=target)
    assert float(jnp.min(found.ess)) > 400
    np.testing.assert_allclose(found.log_evidence, 0, atol=0.1)


def test_parallel_decoding_marks_a_label_outside_the_table():
    x = jax.jit(lambda label: decode(FLOW, Z, label, repeats=2))(jnp.array(7))
    assert np.isnan(x).any()


@pytest.mark.release
@pytest.mark.parametrize("rule", RULES)
def test_corrected_steps_reach_the_tilt(rule, measured):
    """`Corrected` weighs step by step, of one block; its evidence is that of the tilt."""
    model, means, factors = gaussian_flow()
    scale = STRENGTHS[rule]
    mean, covariance, log_evidence = tilted(means, factors, 1, scale)
    move = gj.Corrected(RULES[rule](model, scale), DrawPatch())
    found = gj.populations(gj.keys(0, 5), gj.SMC(move), patch_levels(LENGTH, 1), (LENGTH, 1), 40_000, jnp.ones(5, int))
    got_mean, got_covariance = moments(found)
    measured("mean off", np.abs(got_mean - mean).max())
    measured("log evidence off", float(np.abs(found.log_evidence - log_evidence).max()))
    np.testing.assert_allclose(got_mean, mean, atol=0.02)
    np.testing.assert_allclose(got_covariance, covariance, atol=0.03)
    np.testing.assert_allclose(found.log_evidence, log_evidence, atol=0.03)


def test_the_gaussian_product_by_hand():
    """N(1, .5^2)^2 N(0, 1)^-1: precision 2 / .25 - 1 = 7, mean 2 / .25 / 7; a narrow weak one counts as wide."""
    model, _, _ = gaussian_flow()
    pred = model(
        jnp.zeros((LENGTH, 1)), patch_levels(LENGTH, 1).at(0), jnp.array(0), model.init(jnp.zeros((4, 1))), KEY
    )[0]
    strong = dataclasses.replace(pred, mean=jnp.array([1.0]), log_std=jnp.log(jnp.array([0.5])))
    weak = dataclasses.replace(pred, mean=jnp.array([0.0]), log_std=jnp.array([0.0]))
    product = strong.contrast(weak, 2.0)
    np.testing.assert_allclose(product.mean, 8 / 7, rtol=1e-6)
    np.testing.assert_allclose(jnp.exp(product.log_std), 7**-0.5, rtol=1e-6)
    clipped = weak.contrast(strong, 2.0)  # the weak one is half as wide: as if it were as wide
    np.testing.assert_allclose(clipped.mean, -1.0, rtol=1e-6)
    np.testing.assert_allclose(jnp.exp(clipped.log_std), 1.0, rtol=1e-6)
    between = weak.contrast(strong, 0.25)  # 1 / 4 of precision 1 at 0, 3 / 4 of precision 4 at 1
    np.testing.assert_allclose(between.mean, 3 / 3.25, rtol=1e-6)


# ---- the noise, gradients, refusals -------------------------------------------------------------------------------


def test_the_last_step_removes_the_noise_that_training_added():
    """Tweedie: E[x0 | x] of Gaussian data with noise .3 added, whose noisy density the flow knows exactly."""
    model, means, factors = gaussian_flow()
    x, covariance, std = np.array([0.4, -1.0, 0.3, 2.0]), factors[1] @ factors[1].T, 0.3
    got = remove_noise(model, jnp.asarray(x, jnp.float32)[:, None], std, jnp.array(1))[:, 0]
    want = means[1] + (covariance - std**2 * np.eye(LENGTH)) @ np.linalg.solve(covariance, x - means[1])
    np.testing.assert_allclose(got, want, atol=1e-5)
    slope = jnp.arange(4.0)
    guided = remove_noise(
        model, jnp.asarray(x, jnp.float32)[:, None], std, jnp.array(1), lambda x: jnp.sum(slope * x[:, 0]), 2.0
    )
    np.testing.assert_allclose(guided[:, 0] - got, std**2 * 2 * slope, atol=1e-5)


@pytest.mark.release
def test_walking_over_the_noise_samples_the_tilt(measured):
    """`search.walk` of z: p(x) exp(r(x)) for a linear r is the Gaussian with a shifted mean."""
    model, means, factors = gaussian_flow()
    slope = np.array([0.5, -0.4, 0.8, 0.3])

    def reward(x, level, cond):
        return jnp.sum(jnp.asarray(slope) * x[:, 0])

    kernel, levels = gj.Reverse(model, PatchByPatch()), patch_levels(LENGTH, 1)
    labels = jnp.zeros(4000, int)
    starts = gj.search.walk(
        gj.keys(0, 4000), gj.BestOf(kernel, reward), levels, (LENGTH, 1), labels, steps=40, size=0.6
    )
    x = gj.generate(gj.keys(0, 4000), kernel, levels, (LENGTH, 1), labels, starts.x)[..., 0]
    want = means[0] + factors[0] @ factors[0].T @ slope
    measured("mean off", float(np.abs(x.mean(0) - want).max()))
    np.testing.assert_allclose(x.mean(0), want, atol=0.06)
    climbed = gj.search.climb(gj.keys(0, 20), gj.BestOf(kernel, reward), levels, (LENGTH, 1), labels[:20], steps=30)
    assert float(jnp.mean(climbed.value[:, -1] - climbed.value[:, 0])) > 0.3


def test_a_given_beginning_is_conditioned_on_exactly():
    """The first two of four Gaussian patches: the others have the conditional mean and covariance."""
    model, means, factors = gaussian_flow()
    known = jnp.array([[0.8], [-0.5], [jnp.nan], [jnp.nan]])
    kernel = InfillPatches(gj.Reverse(model, DrawPatch()), known)
    x = gj.generate(gj.keys(3, 20_000), kernel, patch_levels(LENGTH, 1), (LENGTH, 1), jnp.zeros(20_000, int))[..., 0]
    np.testing.assert_array_equal(x[:, :2], jnp.broadcast_to(known[:2, 0], (20_000, 2)))
    covariance = factors[0] @ factors[0].T
    gain = covariance[2:, :2] @ np.linalg.inv(covariance[:2, :2])
    mean = means[0][2:] + gain @ (np.array([0.8, -0.5]) - means[0][:2])
    np.testing.assert_allclose(x[:, 2:].mean(0), mean, atol=0.03)
    np.testing.assert_allclose(np.cov(x[:, 2:].T), covariance[2:, 2:] - gain @ covariance[:2, 2:], atol=0.03)


@pytest.mark.usefixtures("x64")
def test_one_step_on_the_cache_is_a_finite_difference():
    """The gradient of scale attribute - kl KL in the cache of a linear flow, over its norm, by differences."""
    model, means, factors = gaussian_flow()
    model = dataclasses.replace(model, params=(jnp.asarray(means, float), jnp.asarray(factors, float)))

    def attribute(mean, log_std, cond):
        return 2 * mean[0] - mean[0] ** 2

    x = jnp.array([[0.3], [-0.7], [0.0], [0.0]])
    levels, label = patch_levels(LENGTH, 1), jnp.array(1)
    _, cache = model(x, levels.at(0), label, model.init(x), KEY)
    level = levels.at(1)

    def objective(delta):
        own, other = (model(x, level, label, cache + d, KEY)[0] for d in (0 * delta, delta))
        shift = (other.mean - own.mean) / jnp.exp(own.log_std)
        return 1.5 * attribute(other.mean, other.log_std, label) - 0.2 * 0.5 * jnp.sum(shift**2)

    unit = jnp.eye(4)[:, :, None] * 1e-5
    g = jnp.stack([(objective(u) - objective(-u)) / 2e-5 for u in unit])[:, None]
    guided = CacheGuidance(model, attribute, 1.5, rate=0.1, kl=0.2, steps=1)
    got = guided(x, level, label, cache, KEY)[0]
    want = model(x, level, label, cache + 0.1 * g / jnp.linalg.norm(g), KEY)[0]
    assert abs(float(want.mean[0] - model(x, level, label, cache, KEY)[0].mean[0])) > 0.003
    np.testing.assert_allclose(got.mean, want.mean, rtol=1e-6)
    still = dataclasses.replace(guided, scale=0.0)(x, level, label, cache, KEY)[0]
    np.testing.assert_array_equal(still.mean, model(x, level, label, cache, KEY)[0].mean)


@pytest.mark.parametrize(
    ("do", "words"),
    [
        (lambda: patchify(jnp.zeros((9, 8, 1)), 2), "do not divide images of 9 x 8"),
        (lambda: unpatchify(jnp.zeros((15, 12)), 2, (8, 8, 3)), "do not form an image"),
        (lambda: FLOW.encode(jnp.zeros((5, 4)), 0), r"shape \(6, 4\), got \(5, 4\)"),
        (lambda: FLOW.log_prob(Z), "got cond=None"),
        (lambda: decode(FLOW, Z, repeats=2), "got cond=None"),
        (lambda: decode(FLOW, Z, jnp.array(1), repeats=2, segments=4), "divides the 6 patches"),
        (lambda: AffineGuidance(FLOW, FLOW, 2.0, what="c"), 'must be "a", "b" or "ab"'),
        (lambda: patch_levels(1, 2), "two patches"),
        (
            lambda: importance(
                gj.keys(0, 1), gj.Reverse(FLOW, gj.DDIM()), patch_levels(6, 3), (6, 4), 2, log_target=sum
            ),
            "importance needs Reverse",
        ),
    ],
)
def test_bad_input_is_one_line(do, words):
    with pytest.raises(gj.Refused, match=words) as error:
        do()
    assert "\n" not in str(error.value)


def near(x, level, label):
    """A guide of noisy images."""
    return -jnp.sum(x**2)


@pytest.mark.parametrize(
    ("kernel", "words", "label"),
    [
        (lambda: gj.Reverse(FLOW, PatchByPatch()), "labels go from 0 to 4", 6),
        (lambda: gj.Reverse(FLOW, gj.DDIM()), "use PatchByPatch", 1),
        (lambda: gj.Reverse(FLOW, DrawPatch()), "use PatchByPatch", 1),
        (lambda: gj.Reverse(gj.Classifier(FLOW, near, 1.0), PatchByPatch()), "Classifier is for images or vectors", 1),
        (lambda: gj.Reverse(gj.Reconstruction(FLOW, near), PatchByPatch()), "is for images or vectors", 1),
        (lambda: InfillPatches(gj.Reverse(FLOW, PatchByPatch()), Z), "InfillPatches is for flows of one block", 1),
        (lambda: gj.Reverse(CacheGuidance(gj.CFG(FLOW, 5, 2.0), lambda m, s, c: 0.0), PatchByPatch()), "got CFG", 1),
        (lambda: gj.kernels.SVDD(FLOW, PatchByPatch(), near), "a solver with a transition", 1),
    ],
)
def test_what_flows_do_not_take_is_refused(kernel, words, label):
    with pytest.raises(gj.Refused, match=words):
        gj.generate(gj.keys(0, 1), kernel(), patch_levels(6, 3), (6, 4), jnp.array([label]))


def test_levels_of_another_flow_are_refused():
    with pytest.raises(gj.Refused, match=r"need 16 levels, got 11; write patch_levels\(6, 3\)"):
        gj.generate(gj.keys(0, 1), gj.Reverse(FLOW, PatchByPatch()), patch_levels(6, 2), (6, 4), jnp.array([1]))
