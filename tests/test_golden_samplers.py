"""k-diffusion's samplers and diffusers' multistep ones, their own numbers, in float64 to 1e-8."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import guidance_jax as gj
from guidance_jax.core import Level, Prediction
from guidance_jax.solvers import DPM2, LMS, DPMSolver2S, DPMSolver3M, SASolver, UniPC

GOLDEN = np.load(Path(__file__).parent / "golden" / "k_samplers.npz")
MULTISTEP = np.load(Path(__file__).parent / "golden" / "multistep.npz")  # diffusers
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
    "dpmpp_3m_sde_eta0": DPMSolver3M(0.0),
    "dpmpp_3m_sde_eta1": DPMSolver3M(1.0),
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


def follow(monkeypatch, solver, sigmas, timesteps):
    """The samples after each step of `solver` on an elementwise network, with the noise that diffusers drew."""
    sigmas = np.asarray(sigmas)
    alpha = 1 / np.sqrt(1 + sigmas**2)
    levels = Level(np.append(timesteps, 0.0), alpha, sigmas * alpha)
    drawn = []
    monkeypatch.setattr(jax.random, "normal", lambda key, shape, dtype: drawn[-1])

    @jax.jit
    def loop(x, noise):
        def body(carry, inputs):
            (x, state), (t, s, z) = carry, inputs
            drawn.append(z)
            eps = 0.8 * jnp.tanh(x * (1 + t.t / 1000)) + 0.1 * x
            pred = Prediction((x - t.sigma * eps) / t.alpha, eps)
            carry = solver.step(pred, t, s, None, state, jax.random.key(0))
            return carry, carry[0]

        levels_ = jax.tree.map(jnp.asarray, levels)
        inputs = levels_.at(slice(None, -1)), levels_.at(slice(1, None)), noise
        return jax.lax.scan(body, (x, solver.init(x)), inputs)[1]

    return np.asarray(loop(jnp.asarray(MULTISTEP["x"]), jnp.asarray(MULTISTEP["z"])))


@pytest.mark.parametrize("corrects", [True, False])
@pytest.mark.parametrize("kind", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc(monkeypatch, order, kind, corrects):
    """Every step as diffusers' UniPCMultistepScheduler; its bh1 is not finite at the clean level, ours is."""
    want = MULTISTEP[f"unipc_{order}_{kind}_{int(corrects)}"]
    solver = UniPC(order, bh1=kind == "bh1", corrects=corrects)
    got = follow(monkeypatch, solver, MULTISTEP[f"sigmas_{order}"], MULTISTEP["timesteps"])
    finite = np.isfinite(want).all((1, 2))
    assert finite.sum() >= 7
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got[finite], want[finite], atol=1e-8, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("corrector", [1, 2, 3])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("tau", [0.0, 0.6, 1.0])
def test_sa_solver(monkeypatch, tau, order, corrector):
    """Every step as diffusers' SASolverScheduler, with its noise."""
    got = follow(monkeypatch, SASolver(tau, order, corrector), MULTISTEP["sa_sigmas"], MULTISTEP["sa_timesteps"])
    np.testing.assert_allclose(got, MULTISTEP[f"sa_{tau}_{order}_{corrector}"], atol=1e-8, rtol=0)
