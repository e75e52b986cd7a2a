"""What saves memory or uses more devices changes no sample."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import guidance_jax as gj
from guidance_jax.models import Microbatched
from guidance_jax.models.adapters import few_at_a_time
from guidance_jax.sharding import memory, sample_mesh, split_params
from tests.test_jobs import environment

SHAPE, LEVELS = (8, 8, 3), gj.Cosine().levels(3)
SIZE = 192


def network(params, x, t, cond):
    h = jnp.tanh(x.reshape(SIZE) @ params["in"] + t + params["labels"][cond])
    return (jnp.tanh(h @ params["middle"]) @ params["out"]).reshape(SHAPE)


def logits(params, x, t):
    return jnp.tanh(jnp.tanh(x.reshape(SIZE) @ params["in"]) @ params["middle"]) @ params["out"]


def parts(wide=512):
    """A conditional network with the null label 3, and a noisy classifier of 3 classes, with random weights."""

    def weights(seed, **shapes):
        keys = jax.random.split(jax.random.key(seed), len(shapes))
        return {k: jax.random.normal(key, s) / s[0] ** 0.5 for key, (k, s) in zip(keys, shapes.items(), strict=True)}

    own = weights(0, **{"in": (SIZE, wide), "middle": (wide, wide), "out": (wide, SIZE), "labels": (4, wide)})
    guide = weights(1, **{"in": (SIZE, wide), "middle": (wide, wide), "out": (wide, 3)})
    return gj.Network(own, network, gj.parameterizations.v, batched=False), gj.NoisyClassifier(
        guide, logits, batched=False
    )


def same(got, want):
    """Equal to 1e-5 of the largest entry."""
    np.testing.assert_allclose(got, want, atol=1e-5 * float(np.abs(want).max()), rtol=0)


def draw(kernel, n=8):
    return gj.generate(gj.keys(0, n), kernel, LEVELS, SHAPE, jnp.arange(n) % 3)


def needed(kernel, n=8):
    return memory(sample_mesh(1), gj.keys(0, n), kernel, LEVELS, SHAPE, jnp.arange(n) % 3)


def classifier_guided(classifier):
    return gj.Reverse(gj.Classifier(gj.Unconditional(parts()[0], 3), classifier, 2.0), gj.DDIM())


@pytest.mark.parametrize("size", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 8, 100))])
def test_microbatches_change_no_sample(size):
    """3 does not divide the 8 samples."""
    classifier = parts()[1]
    want = draw(classifier_guided(classifier))
    same(draw(classifier_guided(Microbatched(classifier, size))), want)
    unguided = draw(gj.Reverse(gj.Unconditional(parts()[0], 3), gj.DDIM()))
    assert np.abs(want - unguided).max() > 1e-2


def test_microbatches_need_less_memory():
    classifier = parts()[1]

    def alone(classifier):
        gradient = jax.vmap(lambda x, y: classifier.score(x, LEVELS.at(0), y))
        x, y = jnp.zeros((256, *SHAPE)), jnp.zeros(256, int)
        return jax.jit(gradient).lower(x, y).compile().memory_analysis().temp_size_in_bytes

    assert alone(Microbatched(classifier, 8)) < 0.5 * alone(Microbatched(classifier, 256))


@pytest.mark.slow
def test_a_microbatch_works_under_two_vmaps_and_in_the_mean_form():
    model, classifier = parts()
    few = Microbatched(classifier, 2)
    x, y = jax.random.normal(jax.random.key(0), (2, 3, *SHAPE)), jnp.array([[0, 1, 2], [2, 1, 0]])
    ask = jax.vmap(jax.vmap(lambda x, y: few.score(x, LEVELS.at(1), y)))
    want = jax.vmap(jax.vmap(lambda x, y: jax.grad(classifier.log_prob)(x, LEVELS.at(1), y)))
    same(ask(x, y), want(x, y))
    mean = [draw(gj.MeanShift(gj.Unconditional(model, 3), gj.DDPM(), c, 2.0)) for c in (classifier, few)]
    same(*mean)
    with pytest.raises(ValueError, match="at least one sample, got size=0"):
        Microbatched(classifier, 0)


def test_few_at_a_time_is_vmap():
    """4 does not divide 10; what is not batched stays whole."""

    def f(x, table):
        return table[x] * 2

    call = few_at_a_time(f, 4)
    out = jax.vmap(call, (0, None))(jnp.arange(10), jnp.arange(10.0))
    np.testing.assert_array_equal(out, 2 * np.arange(10.0))
    np.testing.assert_array_equal(call(jnp.array(3), jnp.arange(10.0)), 6.0)


@pytest.mark.slow
def test_conditions_in_turn_change_no_sample_and_need_less_memory():
    model = parts(2048)[0]
    together, turn = (gj.Reverse(gj.CFG(model, 3, 2.0, in_turn=t), gj.DDIM()) for t in (False, True))
    same(draw(turn), draw(together))
    assert needed(turn, 256).temporary < 0.75 * needed(together, 256).temporary


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_steps():
    kernel = classifier_guided(parts()[1])
    args = sample_mesh(1), gj.keys(0, 4), kernel
    few, many = (memory(*args, gj.Cosine().levels(n), SHAPE, jnp.arange(4) % 3) for n in (4, 40))
    assert (many.temporary - few.temporary) / 36 < 100  # bytes a step: the levels; a sample has 768
    assert "MiB on a device (arguments 3.1" in str(few)


SPLIT = """
import sys
import numpy as np
from guidance_jax.sharding import generate_on, memory, sample_mesh
from tests.test_scale import LEVELS, SHAPE, classifier_guided, parts
import guidance_jax as gj
import jax.numpy as jnp
kernel = classifier_guided(parts()[1])
args = sample_mesh(), gj.keys(0, 8), kernel, LEVELS, SHAPE, jnp.arange(8) % 3
np.save(sys.argv[1], generate_on(*args, split=True))
print(memory(*args, split=True).arguments / memory(*args).arguments)
"""


@pytest.mark.slow
def test_split_parameters_change_no_sample_and_are_split(tmp_path):
    command = [sys.executable, "-c", SPLIT, str(tmp_path / "x.npy")]
    done = subprocess.run(command, env=environment(4), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    same(np.load(tmp_path / "x.npy"), draw(classifier_guided(parts()[1])))
    assert float(done.stdout) < 0.4  # of four devices; small parameters are on all


def test_the_longest_axis_that_devices_divide_is_split():
    mesh = sample_mesh(1)
    tree = {"large": jnp.zeros((4, 128, 64)), "small": jnp.zeros(8)}
    specs = jax.tree.map(lambda s: tuple(s.spec), split_params(tree, mesh))
    assert specs == {"large": (None, "samples", None), "small": (None,)}


TRAIN = """
import sys
import jax, jax.numpy as jnp, numpy as np, optax
import guidance_jax as gj
from guidance_jax.datasets.images import Images
from guidance_jax.training.fit import fit

def loss(params, key, x0, label):
    return jnp.mean((params * x0 - 2 * x0 - jax.random.normal(key, x0.shape)) ** 2)

x = np.random.default_rng(0).normal(size=(64, 4, 4, 1)).astype(np.float32)
data = Images(x, np.zeros(64, np.int32), ("all",))
common = dict(steps=5, batch=32, optimizer=optax.adam(0.1))
alone, split = (fit(loss, jnp.ones(()), data, mesh=mesh, **common) for mesh in (None, gj.sample_mesh()))
np.testing.assert_allclose(split[0], alone[0], rtol=1e-5)
np.testing.assert_allclose(split[1], alone[1], rtol=1e-5)
try:
    fit(loss, jnp.ones(()), data, steps=1, batch=20, optimizer=optax.adam(0.1), mesh=gj.sample_mesh())
except gj.Refused as error:
    assert "8 devices do not divide a batch of 20; write batch=16" in str(error), error
else:
    sys.exit("it should have been refused")
"""


@pytest.mark.slow
def test_training_on_eight_devices_is_training_on_one():
    done = subprocess.run(
        [sys.executable, "-c", TRAIN], env=environment(8), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
