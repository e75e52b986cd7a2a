"""OpenAI's GaussianDiffusion and SpacedDiffusion, their own numbers: all variances, clipping, respacings, both guides.

In float64, so that what is left is the reference's own float32 rounding: at the noisiest cosine levels 1 / alpha is
20,000, and one rounding of eps there is larger than the tolerance.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import guidance_jax as gj
from guidance_jax.models.parameterizations import LearnedRange
from tests import first

GOLDEN = np.load(Path(__file__).parent / "golden" / "ddpm_ddim.npz")
SCHEDULES = {"linear": gj.LinearBetas(), "cosine": gj.CosineBetas()}
VARIANCES = {
    "fixed_small": gj.solvers.fixed_small,
    "fixed_large": gj.solvers.fixed_large,
    "learned_range": gj.solvers.learned_range,
}
CASES = sorted({"/".join(k.split("/")[:3]) for k in GOLDEN.files})


def network(params, x, t, cond):
    return 0.6 * x + 0.2 * jnp.sin(t / 150) * jnp.cos(x)


def network_with_variance(params, x, t, cond):
    return jnp.concatenate([network(params, x, t, cond), jnp.tanh(0.5 * x + 0.1)], -1)


def log_prob(x, level, label):
    """Its gradient is the golden file's -(x - 0.8) / (1 + t / 500)."""
    return -0.5 * jnp.sum((x - 0.8) ** 2) / (1 + level.t / 500)


def setting(case, clip):
    schedule, variance, respacing = case.split("/")
    levels = SCHEDULES[schedule].levels(respacing)
    learned = variance == "learned_range"
    model = gj.Network(
        (),
        network_with_variance if learned else network,
        LearnedRange() if learned else gj.parameterizations.eps,
        batched=False,
    )
    return levels, gj.Clip(model, 1.0) if clip else model, gj.DDPM.like_openai(levels, VARIANCES[variance])


pytestmark = pytest.mark.usefixtures("x64")


def nhwc(a):
    return jnp.asarray(np.moveaxis(a, -3, -1), jnp.float64)


def rounded(levels):
    """The levels with the sigma that the reference takes for DDIM: sqrt(1 - alpha^2) in float32."""
    return levels._replace(sigma=jnp.sqrt(1 - jnp.float32(levels.alpha**2)).astype(jnp.float64))


def close(got, want, what, slack=0.0):
    """Within 1e-5 of the largest entry, or of 1."""
    off = np.abs(np.moveaxis(np.asarray(got), -1, -3) - want).max() / max(1, np.abs(want).max())
    assert off < 1e-5 + slack, f"{what}: off by {off:.1e}, allowed {1e-5 + slack:.1e}"


@pytest.mark.parametrize("case", CASES)
def test_schedule(case):
    schedule, _, respacing = case.split("/")
    levels = SCHEDULES[schedule].levels(respacing)
    np.testing.assert_array_equal(levels.t[:-1][::-1], GOLDEN[f"{case}/timestep_map"])
    np.testing.assert_allclose(levels.alpha[:-1][::-1] ** 2, GOLDEN[f"{case}/alphas_cumprod"], rtol=1e-6)


@pytest.mark.parametrize("clip", [0, 1])
@pytest.mark.parametrize("case", first(4, CASES))
def test_each_step(case, clip):
    levels, model, solver = setting(case, clip)
    steps = len(levels.t) - 1
    seen = sorted({int(k.split("/")[4][4:]) for k in GOLDEN.files if k.startswith(f"{case}/clip{clip}/step")})
    assert len(seen) > 0
    for step in seen:
        want = {
            k: GOLDEN[f"{case}/clip{clip}/step{step}/{k}"]
            for k in (
                "x_t",
                "x0_hat",
                "mean",
                "log_variance",
                "guided_mean",
                "guided_x0_hat",
                "guided_score_mean",
                "ddim_next",
            )
        }
        t, s = levels.at(steps - 1 - step), levels.at(steps - step)
        x = nhwc(want["x_t"])

        def one(x, t=t, s=s):
            pred = model(x, t, None, (), None)[0]
            q = solver.transition(pred, t, s)
            mean, std = q.mean, q.std
            guided = gj.Classifier(model, log_prob, 1.5)(x, t, None, (), None)[0]
            shift = gj.MeanShift(model, solver, log_prob, 1.5)
            carry = shift(shift.init(x), t, s, None, jax.random.key(0))
            noise = jnp.where(s.sigma > 0, std, 0) * jax.random.normal(jax.random.split(jax.random.key(0))[1], x.shape)
            ddim = gj.DDIM().transition(guided, t, rounded(s)).mean
            return (
                pred.x0,
                mean,
                std * jnp.ones_like(x),
                carry.x - noise,
                guided.x0,
                solver.transition(guided, t, s).mean,
                ddim,
            )

        x0, mean, std, guided_mean, guided_x0, guided_score_mean, ddim = jax.vmap(one)(x)
        close(x0, want["x0_hat"], "x0_hat")
        close(mean, want["mean"], "mean")
        close(guided_mean, want["guided_mean"], "guided_mean")
        close(guided_x0, want["guided_x0_hat"], "guided_x0_hat")
        close(guided_score_mean, want["guided_score_mean"], "guided_score_mean")
        close(ddim, want["ddim_next"], "ddim_next")
        if step > 0:  # OpenAI's log-variance of the last step is not a variance that anything draws from
            close(2 * jnp.log(std), want["log_variance"], "log_variance")


KERNELS = {
    "ddim": lambda model, solver: gj.Reverse(model, gj.DDIM()),
    "ddim_guided": lambda model, solver: gj.Reverse(gj.Classifier(model, log_prob, 1.5), gj.DDIM()),
    "ddim_eta05_guided": lambda model, solver: gj.Reverse(gj.Classifier(model, log_prob, 1.5), gj.DDIM(0.5)),
    "ddpm": lambda model, solver: gj.Reverse(model, solver),
    "ddpm_guided": lambda model, solver: gj.MeanShift(model, solver, log_prob, 1.5),
}


@pytest.mark.parametrize("clip", [0, 1])
@pytest.mark.parametrize("case", first(2, [c for c in CASES if f"{c}/loop/x_T" in GOLDEN]))
@pytest.mark.parametrize("name", KERNELS)
def test_whole_loops(monkeypatch, case, name, clip):
    """The same trajectories with OpenAI's own noise in the place of JAX's, at the reference's own sigma.

    For DDIM it computes sigma = sqrt(1 - alpha^2) in float32. On `cosine/10`, whose last sigma is 0.006, that alone
    moves guided and clipped samples by 1.5e-3; and there eps, which is still 900, is rounded by 1.5e-5 in the sample.
    """
    drawn = []
    monkeypatch.setattr(jax.random, "normal", lambda key, shape, dtype: drawn[-1])
    levels, model, solver = setting(case, clip)
    if name.startswith("ddim"):
        levels = rounded(levels)
    kernel = KERNELS[name](model, solver)

    @jax.jit
    def loop(x, noise):
        def body(carry, inputs):
            t, s, z = inputs
            drawn.append(z)
            return kernel(carry, t, s, None, jax.random.key(0)), None

        steps = levels.at(slice(None, -1)), levels.at(slice(1, None)), noise
        return jax.lax.scan(body, kernel.init(x), steps)[0].x

    end = loop(nhwc(GOLDEN[f"{case}/loop/x_T"]), nhwc(GOLDEN[f"{case}/loop/noise"]))
    coarse = name == "ddim_guided" and clip and case.startswith("cosine") and case.endswith("/10")
    close(end, GOLDEN[f"{case}/loop/{name}_clip{clip}"], name, 2e-5 if coarse else 0.0)
