"""diffusers' guiders where they follow the paper, their own numbers."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import guidance_jax as gj

GOLDEN = np.load(Path(__file__).parent / "golden" / "cfg_rules.npz")


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("cfg_scale4", lambda model: gj.CFG(model, 0, 4.0)),
        ("cfg_scale4_rescale0.7", lambda model: gj.Rescale(model, 0, 4.0, 0.7)),
    ],
)
def test_rules_on_model_outputs(name, rule):
    """The outputs are taken for eps: condition 1 and 0 of a model that looks them up."""
    outputs = jnp.stack([GOLDEN["uncond"], GOLDEN["cond"]], 2)  # (step, sample, condition, c, h, w)
    level = gj.Cosine()(jnp.array(0.4))

    def one(pair):
        model = gj.Function(lambda x, level, cond: pair[cond], gj.eps)
        return rule(model)(jnp.zeros(pair.shape[1:]), level, jnp.array(1), (), None)[0].eps

    got = jax.vmap(jax.vmap(one))(outputs)
    np.testing.assert_allclose(got, GOLDEN[name], atol=1e-5)
