"""A user's own network: batched as everyone writes them, of any library, in at the front door and out at the back."""

import diffrax
import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import guidance_jax as gj
from tests import first

SHAPE, N = (8, 8, 3), 5
SCHEDULE = gj.Cosine()
X = jax.random.normal(jax.random.key(1), (N, *SHAPE))
LABELS = jnp.arange(N) % 4
NULL = 2  # of a mixture of two: both

EPS = gj.parameterizations.eps


class BatchedUNet(nn.Module):
    """The usual: (B, H, W, C), (B,), (B,); group and batch normalisation, attention, dropout."""

    width: int = 16

    @nn.compact
    def __call__(self, x, t, y, train=False):
        emb = nn.Dense(self.width)(jnp.stack([jnp.sin(9 * t), jnp.cos(9 * t)], -1))
        emb = emb + nn.Embed(5, self.width)(y)
        h = nn.Conv(self.width, (3, 3))(x) + emb[:, None, None, :]
        h = nn.silu(nn.GroupNorm(4)(h))
        h = nn.BatchNorm(use_running_average=not train)(h)
        h = nn.Dropout(0.5, deterministic=not train)(h)
        flat = h.reshape(h.shape[0], -1, self.width)
        flat = flat + nn.MultiHeadDotProductAttention(num_heads=2)(flat, flat)
        return nn.Conv(x.shape[-1], (3, 3))(flat.reshape(h.shape))


class RowNormalised(nn.Module):
    """Takes a time of any shape, so that nothing but the numbers tells that it is written for batches."""

    @nn.compact
    def __call__(self, x, t, y=None):
        h = nn.GroupNorm(2)(nn.Conv(8, (3, 3))(x))
        return nn.Conv(x.shape[-1], (3, 3))(h) * jnp.cos(t).reshape(t.shape + (1,) * (x.ndim - t.ndim))


class NNXNetwork(nnx.Module):
    def __init__(self, rngs):
        self.inside = nnx.Conv(3, 16, (3, 3), rngs=rngs)
        self.norm = nnx.GroupNorm(16, num_groups=4, rngs=rngs)
        self.batch = nnx.BatchNorm(16, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.label = nnx.Embed(5, 16, rngs=rngs)
        self.outside = nnx.Conv(16, 3, (3, 3), rngs=rngs)

    def __call__(self, x, t, y):
        h = self.norm(self.inside(x)) + (self.label(y) + t[:, None])[:, None, None, :]
        return self.outside(self.drop(self.batch(nnx.silu(h))))


def randomised(variables):
    """Batch statistics and biases that are not 0 and 1: what initialisation hides."""
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(3), len(leaves))
    noise = [0.3 * jnp.abs(jax.random.normal(k, a.shape)) for k, a in zip(keys, leaves)]
    return jax.tree.unflatten(tree, [a + b for a, b in zip(leaves, noise)])


def linen():
    module = BatchedUNet()
    variables = randomised(module.init(jax.random.key(0), X, jnp.zeros(N), LABELS))
    return gj.from_linen(module, variables, gj.parameterizations.eps, train=False), lambda x, t, y: module.apply(
        variables, x, t, y
    )


def of_nnx():
    module = NNXNetwork(nnx.Rngs(0))
    network = gj.from_nnx(module, gj.parameterizations.eps)
    evaluated = nnx.clone(module)
    evaluated.eval()
    return network, evaluated


def of_equinox():
    class Net(eqx.Module):
        conv: eqx.nn.Conv2d
        norm: eqx.nn.GroupNorm
        label: eqx.nn.Embedding
        drop: eqx.nn.Dropout
        out: eqx.nn.Conv2d

        def __init__(self, key):
            a, b, c = jax.random.split(key, 3)
            self.conv, self.out = eqx.nn.Conv2d(3, 8, 3, padding=1, key=a), eqx.nn.Conv2d(8, 3, 3, padding=1, key=b)
            self.norm, self.label, self.drop = eqx.nn.GroupNorm(2, 8), eqx.nn.Embedding(5, 8, key=c), eqx.nn.Dropout()

        def __call__(self, x, t, y):
            h = self.norm(self.conv(jnp.moveaxis(x, -1, 0))) + (self.label(y) + t)[:, None, None]
            return jnp.moveaxis(self.out(self.drop(jax.nn.silu(h))), 0, -1)

    module = eqx.nn.inference_mode(Net(jax.random.key(0)))
    return gj.from_equinox(module, gj.parameterizations.eps), jax.vmap(module)


LIBRARIES = {"linen": linen, "nnx": of_nnx, "equinox": of_equinox}


@pytest.mark.slow
@pytest.mark.parametrize("library", first(1, LIBRARIES))
def test_a_module_of_any_library_says_what_it_says_when_called_by_hand(library):
    """What `vmap` over samples of the denoiser makes, against one call of the module on the batch: 1e-5."""
    network, module = LIBRARIES[library]()
    level = SCHEDULE(jnp.float32(0.4))
    found = jax.jit(jax.vmap(lambda x, y: network(x, level, y, (), None)[0].eps))(X, LABELS)
    wanted = module(X, jnp.full(N, 0.4), LABELS)
    np.testing.assert_allclose(found, wanted, atol=1e-5 * float(jnp.abs(wanted).max()))
    # the gradient through the network too, which DPS and its like need
    pull = jax.jit(jax.vmap(jax.grad(lambda x, y: jnp.sum(network(x, level, y, (), None)[0].eps ** 2))))(X, LABELS)
    by_hand = jax.grad(lambda x: jnp.sum(module(x, jnp.full(N, 0.4), LABELS) ** 2))(X)
    np.testing.assert_allclose(pull, by_hand, atol=2e-5 * float(jnp.abs(by_hand).max()))


@pytest.mark.slow
def test_constructing_twice_shares_the_program():
    """The parts are compared by value: a module wrapped again in a sweep compiles nothing again."""
    module = BatchedUNet()
    variables = module.init(jax.random.key(0), X, jnp.zeros(N), LABELS)
    trees = [
        jax.tree.structure(gj.from_linen(module, variables, gj.parameterizations.eps, train=False)) for _ in range(2)
    ]
    assert trees[0] == trees[1]


@pytest.mark.slow
def test_a_network_says_whether_it_takes_batches():
    """Where it says the wrong thing its shapes tell, if they can."""
    module = BatchedUNet()
    variables = module.init(jax.random.key(0), X, jnp.zeros(N), LABELS)
    levels = SCHEDULE.levels(2)

    def draw(network):
        return gj.generate(gj.keys(0, 2), gj.Reverse(network, gj.DDIM()), levels, SHAPE, jnp.zeros(2, int))

    for make in (
        lambda: gj.Network(variables, module.apply, EPS),
        lambda: gj.NoisyClassifier((), one_sample),
        lambda: gj.TokenNetwork((), one_sample, gj.Absorbing(3)),
    ):
        with pytest.raises(gj.Refused, match="needs to know whether its function takes batches; write batched="):
            make()
    with pytest.raises(gj.Refused, match=r"a sample of shape \(8, 8, 3\) with batched=False .*batched=True"):
        draw(gj.Network(variables, module.apply, EPS, batched=False))
    rows = RowNormalised()
    variables = rows.init(jax.random.key(0), X, jnp.zeros(N))
    assert np.isfinite(draw(gj.Network(variables, rows.apply, EPS, batched=True))).all()
    with pytest.raises(
        gj.Refused, match=r"batched=True, but the network does not accept a batch of two samples .* batched=False"
    ):
        draw(gj.Network((), one_sample, EPS, batched=True))
    assert np.isfinite(draw(gj.Network((), whole_norm, EPS, batched=False))).all()
    with pytest.raises(
        gj.Refused, match=r"for two samples the network returned shapes \[\(8, 8, 3\)\]; write batched=False"
    ):
        draw(gj.Network((), summed, EPS, batched=True))
    with pytest.raises(
        gj.Refused, match=r"for a sample of shape \(8, 8, 3\) the network returned an output of shape \(3,\)"
    ):
        draw(gj.Network((), lambda params, x, t, y: x[0, 0], EPS, batched=False))
    classifier = gj.NoisyClassifier((), lambda params, x, t: jnp.sum(x), batched=False)
    with pytest.raises(gj.Refused, match="a classifier must return a vector of logits"):
        draw(gj.Classifier(gj.Network((), one_sample, EPS, batched=False), classifier, 1.0))


def one_sample(params, x, t, y=None):
    h, w, c = x.shape
    return x.reshape(h * w, c).reshape(x.shape)


def whole_norm(params, x, t, y=None):
    return (x - x.mean()) / x.std()


def summed(params, x, t, y=None):
    return x.sum(0) if x.ndim == 4 else x


def test_a_batched_classifier_is_one_of_samples():
    def apply(params, x, t):
        return x.reshape(x.shape[0], -1) @ params + t[:, None]

    params = jax.random.normal(jax.random.key(0), (192, 4))
    classifier = gj.NoisyClassifier(params, apply, batched=True)
    level = SCHEDULE(jnp.float32(0.3))
    found = jax.vmap(classifier.log_prob, (0, None, 0))(X, level, LABELS)
    wanted = jax.nn.log_softmax(X.reshape(N, -1) @ params + 0.3)[jnp.arange(N), LABELS]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def exact(data_at):
    """The velocity field of N(mean, 0.25) in closed form, on either clock, of one sample."""
    mean = jnp.array([1.0, -2.0])

    def v(t, x, cond):
        u = 1 - t if data_at else t  # rectified flow: 1 at the noise
        x0 = mean + (1 - u) * 0.25 / ((1 - u) ** 2 * 0.25 + u**2) * (x - (1 - u) * mean)
        eps = u / ((1 - u) ** 2 * 0.25 + u**2) * (x - (1 - u) * mean)
        return x0 - eps if data_at else eps - x0

    return v


@pytest.mark.slow
@pytest.mark.parametrize("data_at", [0, 1])
def test_a_velocity_field_on_either_clock_samples_its_data_and_goes_back(data_at):
    network = gj.from_velocity(exact(data_at), data_at=data_at, batched=False)
    levels = gj.RectifiedFlow().levels(100, 0.999)
    x = gj.generate(gj.keys(0, 4000), gj.Reverse(network, gj.DDIM()), levels, (2,))
    np.testing.assert_allclose(x.mean(0), [1.0, -2.0], atol=0.04)
    np.testing.assert_allclose(x.std(0), 0.5, atol=0.03)
    field = gj.as_function(network, gj.RectifiedFlow(), data_at=data_at, batched=False)
    np.testing.assert_allclose(field(jnp.ones(2), 0.3, None), exact(data_at)(0.3, jnp.ones(2), None), rtol=1e-5)
    with pytest.raises(gj.Refused, match="data_at=2; write data_at=1"):
        gj.from_velocity(exact(0), data_at=2, batched=False)
    with pytest.raises(gj.Refused, match=r"needs the schedule RectifiedFlow\(\), got a domain on Cosine"):
        gj.from_velocity(exact(0), gj.Domain((2,), gj.Cosine()), data_at=0, batched=False)


@pytest.mark.slow
def test_a_guided_denoiser_goes_out_as_velocity_score_and_clean_estimate(mixture_of_two):
    """On every clock: the score is the exact one, and an ODE solver of another package draws what `generate` draws."""
    guided = mixture_of_two
    x, label = jnp.array([[0.4, -0.3], [1.0, 2.0]]), jnp.array([0, 1])
    for schedule in (gj.Cosine(), gj.RectifiedFlow(), gj.schedules.LinearVP()):
        level = schedule(jnp.float32(0.6))
        outputs = {name: gj.as_function(guided, schedule, name)(x, 0.6, label) for name in ("score", "x0", "eps")}
        ask = jax.vmap(lambda x, level, y: guided(x, level, y, guided.init(x), None)[0], (0, None, 0))
        pred = ask(x, level, label)
        np.testing.assert_allclose(outputs["score"], -pred.eps / level.sigma, rtol=1e-5)
        np.testing.assert_allclose(level.alpha * outputs["x0"] + level.sigma * outputs["eps"], x, atol=1e-5)
        velocity = gj.as_function(guided, schedule)(x, 0.6, label)
        step = 1e-2  # x_t of a fixed (x0, eps) moves at that speed: central differences of the schedule
        up, down = schedule(0.6 + step), schedule(0.6 - step)
        wanted = ((up.alpha - down.alpha) * pred.x0 + (up.sigma - down.sigma) * pred.eps) / (2 * step)
        np.testing.assert_allclose(velocity, wanted, rtol=5e-3)


@pytest.mark.slow
def test_diffrax_solves_the_guided_ode(mixture_of_two):
    guided = mixture_of_two
    f = gj.as_function(guided, gj.RectifiedFlow(), data_at=1, batched=False)
    noise = jax.random.normal(jax.random.key(0), (2,))

    def solve(x):
        term = diffrax.ODETerm(lambda t, x, label: f(x, t, label))
        control = diffrax.PIDController(rtol=1e-6, atol=1e-6)
        found = diffrax.diffeqsolve(
            term, diffrax.Tsit5(), 0.001, 0.999, None, x, args=1, stepsize_controller=control, max_steps=10_000
        )
        return found.ys[-1]

    levels = gj.RectifiedFlow()(jnp.linspace(0.999, 0.001, 4000))
    ours = gj.sample(jax.random.key(0), gj.Reverse(guided, gj.Heun()), levels, noise, jnp.int32(1)).x
    np.testing.assert_allclose(jax.jit(solve)(noise), ours, atol=2e-3)


@pytest.fixture
def mixture_of_two():
    target = gj.GaussianMixture(jnp.array([[2.0, 0.0], [-1.0, 1.5]]), 0.5, jnp.array([0.7, 0.3]))
    return gj.CFG(target, NULL, 2.0)


def test_what_cannot_go_out_is_refused():
    target = gj.GaussianMixture(jnp.eye(2), 0.5, jnp.ones(2) / 2)
    for wrong, words in (
        (
            lambda: gj.as_function(gj.guidance.APG(target, NULL, 2.0), gj.Cosine())(jnp.ones((1, 2)), 0.5),
            "keeps a state",
        ),
        (lambda: gj.as_function(target, gj.Cosine(), "noise"), "velocity, score, x0 or eps"),
        (lambda: gj.as_function(target, gj.Cosine(), data_at=1), r"or 1 on RectifiedFlow\(\)"),
        (lambda: gj.as_function(target, gj.LinearBetas()), "its velocity is not defined"),
        (lambda: gj.as_function(jnp.sin, gj.Cosine()), "the denoiser"),
    ):
        with pytest.raises(gj.Refused, match=words):
            wrong()


@pytest.mark.slow
def test_one_scale_for_each_sample_is_that_scale_for_each_alone():
    """`PerSample` in one program, against a program per scale; in windows and on meshes too."""
    target = gj.GaussianMixture(jnp.array([[2.0, 0.0], [-1.0, 1.5]]), 0.5, jnp.array([0.7, 0.3]))
    levels, labels, scales = gj.Cosine().levels(8), jnp.array([0, 1, 0]), jnp.array([0.0, 1.5, 4.0])

    def draw(scale, keys, labels, generate=gj.generate):
        return generate(keys, gj.Reverse(gj.CFG(target, NULL, scale), gj.DDIM()), levels, (2,), labels)

    keys = gj.keys(0, 3)
    alone = [draw(scales[i], keys[i : i + 1], labels[i : i + 1])[0] for i in range(3)]
    np.testing.assert_allclose(draw(gj.PerSample(scales), keys, labels), alone, atol=1e-5)
    window = gj.Window(gj.PerSample(scales), 0.0, 1e9)
    np.testing.assert_allclose(draw(window, keys, labels), alone, atol=1e-5)
    in_batches = draw(
        gj.PerSample(scales), keys, labels, lambda *a: gj.generate_on(gj.sample_mesh(1), *a, batch=2, progress=None)
    )
    np.testing.assert_allclose(in_batches, alone, atol=1e-5)
    with pytest.raises(gj.Refused, match=r"one number for each of the 3 keys, got shape \(2,\)"):
        draw(gj.PerSample(scales[:2]), keys, labels)
    with pytest.raises(gj.Refused, match="one per sample PerSample"):
        draw(scales, keys, labels)
    with pytest.raises(gj.Refused, match=r"write keys\(0, n\)"):
        draw(1.0, jax.random.key(0), labels)
    with pytest.raises(gj.Refused, match=r"write keys\(0, n\)"):
        draw(1.0, jax.random.PRNGKey(0), labels)


@pytest.mark.slow
def test_populations_take_one_scale_each():
    target = gj.GaussianMixture(jnp.array([[2.0, 0.0], [-1.0, 1.5]]), 0.5, jnp.array([0.7, 0.3]))
    levels, scales = gj.Cosine().levels(6), jnp.array([1.0, 3.0])

    def draw(scale, keys):
        move = gj.Corrected(gj.CFG(target, NULL, scale), gj.DDIM(1.0), proposal=1.0)
        return gj.populations(keys, gj.SMC(move), levels, (2,), 16, jnp.zeros(len(keys), int)).log_evidence

    keys = gj.keys(0, 2)
    alone = [draw(scales[i], keys[i : i + 1])[0] for i in range(2)]
    np.testing.assert_allclose(draw(gj.PerSample(scales), keys), alone, atol=1e-5)


@gj.register
class OwnLinen(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x, t, y, train=True):
        return nn.Dense(x.shape[-1])(nn.Dense(self.width)(x) + t[:, None, None, None] + y[:, None, None, None])


@gj.register
def own_function(params, x, t, y):
    return params["w"] * x + t


@pytest.mark.slow
def test_own_networks_are_saved_and_loaded(tmp_path):
    module = OwnLinen(7)
    variables = module.init(jax.random.key(0), X, jnp.zeros(N), LABELS)
    domain = gj.Domain(SHAPE, SCHEDULE, 4)
    network = gj.from_linen(module, variables, gj.parameterizations.v, domain, train=False)
    gj.save(tmp_path / "linen", network)
    loaded = gj.load(tmp_path / "linen")
    assert loaded.apply.apply.__self__ == module
    assert loaded.apply.options == (("train", False),)
    assert (loaded.batched, loaded.domain, loaded.parameterization) == (True, domain, gj.parameterizations.v)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, network.params)
    gj.save(tmp_path / "function", gj.Network({"w": jnp.float32(2.0)}, own_function, EPS, batched=False))
    assert gj.load(tmp_path / "function", gj.Network).apply is own_function
    with pytest.raises(gj.Refused, match=r"write register\(RowNormalised\) first"):
        gj.save(tmp_path / "other", gj.from_linen(RowNormalised(), variables, gj.parameterizations.eps))
    with pytest.raises(gj.Refused, match=r"write register\(whole_norm\) first"):
        gj.save(tmp_path / "other", gj.Network((), whole_norm, EPS, batched=False))
    with pytest.raises(gj.Refused, match="save accepts a Network"):
        gj.save(tmp_path / "other", gj.GaussianMixture(jnp.eye(2), 0.5, jnp.ones(2) / 2))
    with pytest.raises(gj.Refused, match="a Linen module or a registered function, got Partial"):
        gj.save(tmp_path / "other", gj.Network((), jax.tree_util.Partial(whole_norm), EPS, batched=False))
