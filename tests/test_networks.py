"""ADM's networks against OpenAI's, the convolution against JAX's, and the NNX adapter."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import guidance_jax as gj
from guidance_jax.checkpoints.tensors import match_params
from guidance_jax.guidance import Perturbation
from guidance_jax.models.nnx import functional
from guidance_jax.zoo.adm.network import ADMClassifier, ADMUNet
from guidance_jax.zoo.convolution import conv2d
from guidance_jax.zoo.layers import AttentionBlock, GroupNorm
from tests import first

FOLDER = Path(__file__).parent / "golden"
GOLDEN = np.load(FOLDER / "adm_networks.npz")
NETWORKS = json.loads((FOLDER / "adm_networks.json").read_text())


def golden_network(name, dtype):
    spec, state = NETWORKS[name], {}
    for k, key in enumerate(sorted(spec["state_dict"])):
        shape = spec["state_dict"][key]
        value = spec["amplitude"] * np.sin(0.37 * np.arange(np.prod(shape)) + k)
        value += key.endswith(".weight") and len(shape) == 1
        state[key] = value.reshape(shape).astype(np.float32).astype(dtype)
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in spec["config"].items()}
    del fields["image_size"], fields["in_channels"]
    cls = ADMClassifier if name.startswith("classifier") else ADMUNet
    network = cls(**fields)
    x, t, y = golden_inputs(name, dtype)
    given = (x[0], t[0]) if vars(network).get("num_classes") is None else (x[0], t[0], y[0])
    return network, jax.tree.map(lambda a: a.astype(dtype), match_params(state, network, *given))


def golden_inputs(name, dtype):
    x = jnp.asarray(np.moveaxis(GOLDEN[f"{name}/x"], 1, -1), dtype)
    return x, jnp.asarray(GOLDEN[f"{name}/t"], dtype), jnp.asarray(GOLDEN[f"{name}/y"], jnp.int32)


def relative(got, want):
    return np.abs(np.asarray(got) - want).max() / np.abs(want).max()


@pytest.mark.parametrize("name", ["adm_uncond", "adm_class", "iddpm_class"])
def test_unet_is_openai_s(name):
    network, params = golden_network(name, np.float32)
    x, t, y = golden_inputs(name, jnp.float32)

    def one(x, t, y):
        return network.apply(params, x, t, None if network.num_classes is None else y)

    out = jax.jit(jax.vmap(one))(x, t, y)
    assert relative(np.moveaxis(out, -1, 1), GOLDEN[f"{name}/out"]) < 1e-4


def check_classifier(name, dtype, tolerance):
    network, params = golden_network(name, dtype)
    x, t, y = golden_inputs(name, dtype)

    def log_prob(x, t, y):
        logits = network.apply(params, x, t)
        return jax.nn.log_softmax(logits)[y], logits

    (value, logits), gradient = jax.jit(jax.vmap(jax.value_and_grad(log_prob, has_aux=True)))(x, t, y)
    assert relative(logits, GOLDEN[f"{name}/logits"]) < 1e-4
    assert relative(value, GOLDEN[f"{name}/log_prob"]) < 1e-4
    assert relative(np.moveaxis(gradient, -1, 1), GOLDEN[f"{name}/grad_log_prob"]) < tolerance


@pytest.mark.slow
def test_classifier_and_its_gradient_are_openai_s():
    check_classifier("classifier_attention", np.float32, 1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_classifier_with_adaptive_pooling_and_its_gradient_are_openai_s():
    check_classifier("classifier_adaptive", np.float64, 1e-4)


@pytest.mark.slow
def test_adaptive_pooling_in_float32():
    """Its gradient is ill-conditioned: one float32 rounding of the image moved it by 3e-4 of itself (JAX 0.10.2)."""
    check_classifier("classifier_adaptive", np.float32, 5e-4)


def plain_conv(x, w, stride=1):
    pads = [(k // 2, k // 2) for k in w.shape[:2]]
    out = jax.lax.conv_general_dilated(x[None], w, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return out[0]


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("size", first([3], [1, 3]))
@pytest.mark.parametrize("stride", first([2], [1, 2]))
@pytest.mark.parametrize("shape", [(8, 8), (7, 5)])
def test_convolution_and_all_its_derivatives_are_jax_s(size, stride, shape):
    keys = jax.random.split(jax.random.key(0), 4)
    x, w = jax.random.normal(keys[0], (*shape, 4)), jax.random.normal(keys[1], (size, size, 4, 6))
    xs, ws = jax.random.normal(keys[2], (3, *shape, 4)), jax.random.normal(keys[3], (3, size, size, 4, 6))

    def everything(conv):
        def f(x, w):
            return jnp.sum(jnp.tanh(conv(x, w, stride)))

        return (
            conv(x, w, stride),
            jax.grad(f, (0, 1))(x, w),
            jax.jvp(jax.grad(f), (x, w), (x, w))[1],
            jax.grad(lambda x: jnp.sum(jax.grad(f)(x, w) ** 2))(x),
            jax.grad(lambda w: jnp.sum(jax.vmap(f, (0, None))(xs, w)))(w),
            jax.vmap(jax.grad(f))(xs, ws),
        )

    for got, want in zip(*map(jax.tree.leaves, (everything(conv2d), everything(plain_conv)))):
        np.testing.assert_allclose(got, want, atol=1e-10)


def test_group_norm_has_group_moments_zero_and_one():
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (6, 6, 16))
    norm = GroupNorm(groups=4)
    y = norm.apply(norm.init(jax.random.key(0), x), x).reshape(36, 4, 4)
    np.testing.assert_allclose(jnp.mean(y, (0, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(jnp.var(y, (0, 2)), 1, atol=1e-4)


def test_sides_that_cannot_be_halved_are_refused():
    network = ADMUNet(8, 1, 1, (2,), (1, 2), groups=4)
    with pytest.raises(ValueError, match="divisible by 2"):
        network.init(jax.random.key(0), jnp.zeros((7, 8, 1)), jnp.zeros(()))


def test_any_nnx_module_is_a_network():
    """Under grad inside scan, which is where a module with state would fail."""

    class Tiny(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(3, 16, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)
            self.last = nnx.Linear(16, 2, rngs=rngs)

        def __call__(self, x, t, cond=None):
            return self.last(self.dropout(nnx.silu(self.first(jnp.append(x, t)))))

    module = Tiny(nnx.Rngs(0))
    module.eval()
    apply, params = functional(module)
    model = gj.Network(params, apply, gj.parameterizations.v, batched=False)
    guided = gj.Classifier(model, lambda x, level, label: apply(params, x, level.t)[label], 1.0)
    x = gj.generate(gj.keys(0, 3), gj.Reverse(guided, gj.DDIM()), gj.Cosine().levels(4), (2,), jnp.array([0, 1, 0]))
    assert np.isfinite(x).all()
    np.testing.assert_allclose(apply(params, jnp.ones(2), 0.5), module(jnp.ones(2), 0.5), rtol=1e-6)


def small_unet(**fields):
    common = dict(num_res_blocks=1, attention_resolutions=(2,), channel_mult=(1, 2), groups=4, time_scale=1000.0)
    return ADMUNet(8, 1, num_classes=11, **common, **fields)


def small_params(unet):
    params = jax.jit(unet.init)(jax.random.key(0), jnp.zeros((8, 8, 1)), jnp.zeros(()), jnp.zeros((), int))
    return jax.tree.map(lambda a: a + 0.05 * jax.random.normal(jax.random.key(a.size), a.shape), params)


@pytest.mark.slow
def test_perturbations_are_numbers_and_zero_is_none():
    """One program for all strengths; each does something; skipping the middle is skipping it."""
    unet = small_unet()
    model = gj.Network(small_params(unet), unet.apply, gj.parameterizations.v, batched=False)
    x, level, label = jax.random.normal(jax.random.key(1), (8, 8, 1)), gj.Cosine()(0.5), jnp.array(3)
    plain = jax.jit(lambda model: model(x, level, label, (), None)[0].x0)(model)
    ask = jax.jit(lambda model: model(x, level, label, (), None)[0].x0)
    np.testing.assert_allclose(ask(gj.guidance.perturb(model, 0.0, 0.0, 0.0)), plain, atol=1e-5)
    for strength in (dict(attention=1.0), dict(blur=2.0), dict(skip=1.0), dict(attention=0.5, blur=1.0, skip=0.3)):
        assert np.abs(ask(gj.guidance.perturb(model, **strength)) - plain).max() > 1e-4
    assert ask._cache_size() == 1


@pytest.mark.slow
def test_identity_attention_returns_the_values():
    """x + proj(v), with v the third part of each head's projection of the normalised pixels."""
    block = AttentionBlock(2, groups=2)
    x = jax.random.normal(jax.random.key(0), (3, 4, 8))
    params = block.init(jax.random.key(1), x)
    params = jax.tree.map(lambda a: a + 0.1 * jax.random.normal(jax.random.key(a.size), a.shape), params)
    own = params["params"]
    normal = GroupNorm(2).apply({"params": own["norm"]}, x.reshape(12, 8))
    v = (normal @ own["qkv"]["kernel"] + own["qkv"]["bias"]).reshape(12, 2, 3, 4)[:, :, 2].reshape(12, 8)
    want = x.reshape(12, 8) + v @ own["proj_out"]["kernel"] + own["proj_out"]["bias"]
    got = block.apply(params, x, Perturbation(attention=1.0))
    np.testing.assert_allclose(got.reshape(12, 8), want, atol=1e-5)


@pytest.mark.slow
def test_rematerialised_gradients_are_the_same():
    plain, again = small_unet(), small_unet(remat=True)
    params, x = small_params(plain), jax.random.normal(jax.random.key(1), (8, 8, 1))

    def gradient(unet):
        return jax.jit(jax.grad(lambda x: jnp.sum(unet.apply(params, x, 0.3, jnp.array(1)) ** 2)))(x)

    np.testing.assert_allclose(gradient(plain), gradient(again), rtol=1e-4, atol=1e-5)
    assert "remat" in str(jax.make_jaxpr(lambda x: again.apply(params, x, 0.3, jnp.array(1)))(x))
