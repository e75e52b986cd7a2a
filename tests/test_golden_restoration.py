"""deepinv 0.5.0's DDRM, DiffPIR and DPS on an affine denoiser, its own numbers, in float64 to 1e-8."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import guidance_jax as gj
from guidance_jax import inverse
from guidance_jax.operators import Matrix
from guidance_jax.operators.matrices import Factored
from guidance_jax.solvers import FreshNoise

GOLDEN = np.load(Path(__file__).parent / "golden" / "deepinv.npz")
pytestmark = pytest.mark.usefixtures("x64")


def operator():
    """theirs as a matrix, diag(s) V^T, with V itself: noise is drawn in its basis."""
    s, v = jnp.asarray(GOLDEN["s"]), jnp.asarray(GOLDEN["V"])
    return Matrix(Factored(s[:, None] * v.T, s, v.T))


def affine(mean, variance):
    """The denoiser of a Gaussian."""
    return gj.oracles.Gaussian(jnp.asarray(mean), variance * jnp.eye(len(mean)))


def follow(monkeypatch, kernel, points, ratios, noises, y):
    """What the kernel makes of each of their samples, on the levels `ratios`, with the noise that they drew."""
    levels = gj.VE()(jnp.asarray(ratios))
    drawn = []
    monkeypatch.setattr(jax.random, "normal", lambda key, shape, dtype: drawn[-1])
    for i in range(len(ratios) - 1):
        drawn.append(jnp.asarray(noises[i]))
        x = jnp.asarray(points[i])
        yield np.asarray(kernel(kernel.init(x), levels.at(i), levels.at(i + 1), y, jax.random.key(0)).x)


@pytest.mark.parametrize(("name", "scale"), [("ddrm_right", 1.0), ("ddrm_theirs", 1 / np.sqrt(2))])
def test_ddrm(monkeypatch, name, scale):
    """The same but for the noise, of which deepinv draws half the variance: once with that mended, once ours cut."""
    kernel = inverse.DDRM(affine(GOLDEN["mean"], float(GOLDEN["var"])), operator(), 0.1)
    noises = scale * GOLDEN["z"][1:] @ GOLDEN["V"].T  # the first started theirs
    got = follow(monkeypatch, kernel, GOLDEN[name], GOLDEN["sigmas"], noises, jnp.asarray(GOLDEN["y"]))
    for i, x in enumerate(got):
        np.testing.assert_allclose(x, GOLDEN[name][i + 1], atol=1e-8)


def test_diffpir(monkeypatch):
    """In [-1, 1] instead of [0, 1]: std is twice theirs, and their lambda twice the weight."""
    points, ratios = 2 * (GOLDEN["pir_x"] - 0.5), 2 * GOLDEN["pir_sigma"]
    ours = operator()
    y = 2 * jnp.asarray(GOLDEN["pir_y"]) - ours(jnp.ones(6))
    model = affine(0.6 * GOLDEN["mean"], 0.16)
    kernel = gj.Reverse(inverse.DiffPIR(model, ours, 0.1, weight=7.0 / 2), FreshNoise(0.3))
    for i, x in enumerate(follow(monkeypatch, kernel, points, ratios, GOLDEN["z"][1:], y)):
        np.testing.assert_allclose(x, points[i + 1], atol=1e-5 * np.abs(points[i]).max())


def test_dps():
    """Its step against the residual, weight .7: deepinv's gradient, which is in float32."""
    model, solver = affine(GOLDEN["mean"], float(GOLDEN["var"])), gj.DDIM()
    for x, sigma, gradient in zip(GOLDEN["dps_x"], GOLDEN["dps_sigma"], GOLDEN["dps_grad"], strict=True):
        levels = gj.VE()(jnp.array([sigma, sigma / 2]))
        steps = [
            kernel(
                kernel.init(jnp.asarray(x)), levels.at(0), levels.at(1), jnp.asarray(GOLDEN["y"]), jax.random.key(0)
            ).x
            for kernel in (gj.Reverse(model, solver), inverse.DPS(model, solver, operator(), 0.7))
        ]
        np.testing.assert_allclose(steps[0] - steps[1], gradient, atol=2e-6)
