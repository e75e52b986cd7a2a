"""Different numbers of steps in one program, and the samples that they have without it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import guidance_jax as gj
from guidance_jax.kernels import Padded
from guidance_jax.sample import _generate
from tests import first
from tests.table import MIXTURE, NULL

LABELS = jnp.array([0, 1, 2, 1])


def kernel(solver):
    return gj.Reverse(gj.CFG(MIXTURE, NULL, 2.0), solver)


@pytest.mark.parametrize("solver", first(1, [gj.DDIM(1.0), gj.DPMSolver2M(), gj.Heun()]), ids=repr)
def test_idle_steps_change_no_sample_and_share_a_program(solver):
    before = None
    for steps in (5, 9, 16):
        levels = gj.Cosine().levels(steps)
        want = gj.generate(gj.keys(0, 4), kernel(solver), levels, (2,), LABELS)
        got = gj.generate(gj.keys(0, 4), Padded(kernel(solver)), gj.kernels.pad_levels(levels, 16), (2,), LABELS)
        np.testing.assert_allclose(got, want, atol=2e-5)
        if before is None:
            before = _generate._cache_size() - 1  # programs of the bare kernel are one a number of steps
    assert _generate._cache_size() == before + 1 + 2


def test_idle_steps_are_skipped():
    """The network is not called for them: what it reports is counted."""
    calls = []

    def counted(x, level, cond):
        jax.debug.callback(lambda _: calls.append(1), level.t)
        return 0.5 * x

    levels = gj.kernels.pad_levels(gj.Cosine().levels(3), 50)
    reverse = Padded(gj.Reverse(gj.Function(counted), gj.DDIM()))
    jax.block_until_ready(gj.sample(jax.random.key(0), reverse, levels, jnp.ones(2)).x)
    jax.effects_barrier()
    assert len(calls) == 3


def test_a_bucket_that_is_too_small_and_idle_steps_without_padding_are_refused():
    levels = gj.Cosine().levels(10)
    with pytest.raises(ValueError, match="cannot pad 10 steps to 8; pass steps=10 or more"):
        gj.kernels.pad_levels(levels, 8)
    with pytest.raises(ValueError, match="levels must fall"):
        gj.generate(gj.keys(0, 4), kernel(gj.DDIM()), gj.kernels.pad_levels(levels, 12), (2,), LABELS)
