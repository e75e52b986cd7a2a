"""k-diffusion's samplers, their own numbers, in float64 to 1e-8."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import guidance_jax as gj
from guidance_jax.solvers import DPM2, LMS, DPMSolver2S

GOLDEN = np.load(Path(__file__).parent / "golden" / "k_samplers.npz")
pytestmark = pytest.mark.usefixtures("x64")
SOLVERS = {
    "euler": gj.DDIM(),
    "heun": gj.Heun(),
    "dpm_2": DPM2(gj.VE()),
    "lms4": LMS(),
    "dpmpp_2m": gj.DPMSolver2M(),
    "dpmpp_2s_eta0": DPMSolver2S(gj.VE()),
    "euler_ancestral_eta1": gj.DDIM(1.0),
    "dpmpp_2m_sde_eta1": gj.DPMSolver2M(1.0),
    "dpmpp_2s_ancestral_eta1": DPMSolver2S(gj.VE(), 1.0),
}


def elementwise_mixture():
    """The posterior mean of every entry: means -1.5 and 1.5, variance 0.16, weights 0.3 and 0.7."""
    one = gj.GaussianMixture(jnp.array([[-1.5], [1.5]]), 0.4, jnp.array([0.3, 0.7]))

    def x0(x, level, cond):
        return jax.vmap(lambda e: one(e[None], level, None, (), None)[0].x0[0])(x.ravel()).reshape(x.shape)

    return gj.Function(x0)


@pytest.mark.parametrize("n", [8, 20])
def test_karras_grid(n):
    np.testing.assert_allclose(
        gj.schedules.karras(gj.VE(), n, 0.02, 20.0).sigma, GOLDEN[f"{n}/sigmas_karras"], rtol=2e-6
    )  # theirs is float32


@pytest.mark.parametrize("n", [8, 20])
@pytest.mark.parametrize("name", SOLVERS)
def test_end_point(monkeypatch, n, name):
    kernel, levels = gj.Reverse(elementwise_mixture(), SOLVERS[name]), gj.VE()(GOLDEN[f"{n}/sigmas_karras"])
    drawn = []
    monkeypatch.setattr(jax.random, "normal", lambda key, shape, dtype: drawn[-1])

    @jax.jit
    def loop(x, noise):
        def body(carry, inputs):
            t, s, z = inputs
            drawn.append(z)
            return kernel(carry, t, s, None, jax.random.key(0)), None

        return jax.lax.scan(body, kernel.init(x), (levels.at(slice(None, -1)), levels.at(slice(1, None)), noise))[0].x

    x = loop(jnp.asarray(GOLDEN[f"{n}/x_T"]), jnp.asarray(GOLDEN[f"{n}/noise"]))
    np.testing.assert_allclose(x, GOLDEN[f"{n}/{name}"], atol=1e-8, rtol=0)


def test_log_snr_grid_is_the_exponential_one():
    want = GOLDEN["sigmas_exponential"]
    got = gj.schedules.log_snr_uniform(gj.VE(), len(want) - 1, float(want[-2]), float(want[0])).sigma
    np.testing.assert_allclose(got, want, rtol=1e-5)
