"""Inverse problems: every method on operators of small pictures, against exact posteriors and on a trained model."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import guidance_jax as gj
from benchmarks.suite import Measure, Row, benchmark
from guidance_jax import inverse, operators
from guidance_jax.diagnostics import ledger
from guidance_jax.guidance import GaussianLikelihood
from guidance_jax.oracles import Gaussian
from guidance_jax.oracles.energy import energy_distance
from guidance_jax.pictures import contact_sheet
from guidance_jax.solvers import FreshNoise

SCHEDULE = gj.Cosine()
Case = tuple[Any, gj.Level]  # a kernel, the levels that it runs on


def linear_methods(
    model: Any, operator: Any, std: float, prior: float, clip: Callable[[Any], Any], steps: int, pulls: int = 3
) -> dict[str, Case]:
    """Every method for linear operators in about the published settings, on a model of data of variance `prior`.

    `clip` holds the guided estimates of a trained model within the range of pictures.
    """
    levels = gj.schedules.log_snr_uniform(SCHEDULE, steps, lo=0.01, hi=80.0)
    few = gj.schedules.karras(SCHEDULE, steps // 2, lo=0.05, hi=20.0)
    falling = gj.schedules.karras(SCHEDULE, 2 * steps, lo=0.1, hi=5.0)
    exact, fine = inverse.ExactStep(operator, std), gj.DDIM(1.0)

    def guided(guide, solver=fine):
        return gj.Reverse(clip(guide), solver), levels

    found = {
        "MMPS": guided(inverse.MMPS(model, operator, std, steps=pulls)),
        "PiGDM": guided(inverse.PiGDM(model, operator, std, prior=prior)),
        "TMPD": guided(inverse.TMPD(model, operator, std)),
        "DPS": (inverse.DPS(clip(model), fine, operator, 0.5), levels),
        "DiffPIR": guided(inverse.DiffPIR(model, operator, std, weight=1.75), FreshNoise(0.3)),
        "DAPS": (inverse.DAPS(clip(model), exact, SCHEDULE, steps=4), few),
        "SplitGibbs": (inverse.SplitGibbs(clip(model), exact, fine, SCHEDULE, steps=8), few),
        "REDdiff": (inverse.REDdiff(clip(model), operator, std, rate=0.05), falling),
    }
    shape = (SIDE, SIDE, 1) if model.domain is None else model.domain.shape
    if operator.has_svd(shape):  # DDNM with noise is the same
        found["DDRM"] = inverse.DDRM(clip(model), operator, std), levels
    return found


# ------------------------------------------------------------------------------------------- against exact posteriors

SIDE = 4
PLACES = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij"), -1).reshape(-1, 2)
NEAR = np.exp(-0.5 * ((PLACES[:, None] - PLACES) ** 2).sum(-1) / 1.5**2) + 0.02 * np.eye(SIDE**2)  # smooth pictures


def exact_operators() -> dict[str, tuple[Any, float]]:
    """What is measured of pictures of 4 x 4, and the noise."""
    kept = np.zeros((SIDE, SIDE, 1))
    kept[:2] = 1
    return {
        "upper half": (operators.Mask(jnp.asarray(kept, jnp.float32)), 0.1),
        "blurred": (operators.Blur.gaussian(0.8, 3, wrap=True), 0.1),
        "means of 2 x 2": (operators.Downsample(2), 0.1),
        "upper half, much noise": (operators.Mask(jnp.asarray(kept, jnp.float32)), 0.7),
    }


def pictured(oracle: Any) -> gj.Function:
    """An oracle of vectors as a counted denoiser of pictures."""

    def x0(x, level, cond):
        return oracle(x.ravel(), level, None, (), None)[0].x0.reshape(x.shape)

    return gj.Function(x0)


def posterior_of(prior: str, matrix: np.ndarray, y: np.ndarray, std: float, n: int) -> np.ndarray:
    """`n` exact draws of the posterior (n, 16)."""
    parts = [(1.0, np.zeros(SIDE**2), NEAR)] if prior == "Gaussian" else mixture_parts()
    log_w, laws = [], []
    for weight, mean, covariance in parts:
        law = Gaussian(jnp.asarray(mean), jnp.asarray(covariance)).condition(jnp.asarray(matrix), jnp.asarray(y), std)
        spread = matrix @ covariance @ matrix.T + std**2 * np.eye(len(y))
        gap = y - matrix @ mean
        log_w.append(np.log(weight) - 0.5 * gap @ np.linalg.solve(spread, gap) - 0.5 * np.linalg.slogdet(spread)[1])
        laws.append((np.asarray(law.mean, np.float64), np.asarray(law.covariance, np.float64)))
    w = np.exp(np.asarray(log_w) - max(log_w))
    generator = np.random.default_rng(0)
    which = generator.choice(len(w), n, p=w / w.sum())
    draws = np.stack([generator.multivariate_normal(*law, n, method="eigh") for law in laws])
    return draws[which, np.arange(n)]


def mixture_parts() -> list[tuple[float, np.ndarray, np.ndarray]]:
    """A bright upper half or a bright left half, and neither."""
    means = np.zeros((3, SIDE, SIDE))
    means[0, :2], means[1, :, :2] = 1.0, 1.0
    return [(w, m.ravel(), 0.25**2 * np.eye(SIDE**2)) for w, m in zip((0.4, 0.4, 0.2), means, strict=True)]


def oracle_of(prior: str) -> Any:
    if prior == "Gaussian":
        return Gaussian(jnp.zeros(SIDE**2), jnp.asarray(NEAR, jnp.float32))
    weights, means, _ = zip(*mixture_parts(), strict=True)
    return gj.GaussianMixture(jnp.asarray(np.stack(means), jnp.float32), 0.25, jnp.asarray(weights))


@benchmark(quick={"samples": 100, "steps": 20})
def restoration_exact(samples: int = 2000, steps: int = 200) -> Iterator[Row]:
    """How far are the samples of each method from the exact posterior, of smooth pictures and of a mixture?"""
    for prior in ("Gaussian", "mixture"):
        model = pictured(oracle_of(prior))
        truth = np.asarray(oracle_of(prior).sample(jax.random.key(3), 1))[0].reshape(SIDE, SIDE, 1)
        for name, (operator, std) in exact_operators().items():
            clean = operator(jnp.asarray(truth, jnp.float32))
            y = clean + std * jax.random.normal(jax.random.key(4), clean.shape)
            matrix = np.asarray(operators.Matrix.of(operator, truth.shape).matrix.matrix, np.float64)
            target = posterior_of(prior, matrix, np.asarray(y, np.float64).ravel(), std, 2 * samples)
            floor = float(energy_distance(target[:samples], target[samples:]))
            variance = 1.0 if prior == "Gaussian" else 0.2
            cases = linear_methods(model, operator, std, variance, lambda part: part, steps, pulls=8)
            cases["no guidance"] = gj.Reverse(model, gj.DDIM(1.0)), cases["MMPS"][1]
            for method, (kernel, levels) in cases.items():
                many = jnp.tile(y, (samples, 1, 1, 1))
                x = np.asarray(gj.generate(gj.keys(0, samples), kernel, levels, truth.shape, many))
                x = x.reshape(samples, -1)
                size = np.sqrt(np.trace(np.cov(target.T)))
                c = np.cov(target.T)
                yield Row(
                    {"prior": prior, "operator": name, "std": std, "method": method},
                    {
                        "mean off": float(np.linalg.norm(x.mean(0) - target.mean(0)) / size),
                        "spread": float(np.sqrt(np.trace(np.cov(x.T))) / size),
                        "covariance off": float(np.linalg.norm(np.cov(x.T) - c) / np.linalg.norm(c)),
                        "energy distance": float(energy_distance(x, target[samples:])),
                        "floor": floor,
                    },
                    {"calls": sum(ledger(kernel, levels, truth.shape, y).calls.values())},
                )


# ----------------------------------------------------------------------------------------------- on a trained model


def picture_operators() -> dict[str, tuple[Any, float]]:
    """What is measured of 28 x 28 pixels, and the noise, in units of [-1, 1]."""
    box = np.ones((28, 28, 1), np.float32)
    box[8:20, 8:20] = 0
    some = (np.random.default_rng(0).random((28, 28, 1)) < 0.3).astype(np.float32)
    lines = np.zeros((28, 28))
    lines[[*range(4), *range(25, 28), 7, 10, 14, 18, 21]] = 1  # low frequencies, and some lines
    return {
        "box": (operators.Mask(jnp.asarray(box)), 0.05),
        "30 % of the pixels": (operators.Mask(jnp.asarray(some)), 0.05),
        "blur": (operators.Blur.gaussian(2.0, 9, wrap=True), 0.05),
        "motion": (operators.Blur.motion(9.0, 30.0, wrap=True), 0.05),
        "bicubic, 4 times": (operators.Separable.bicubic(4, 28, 28), 0.05),
        "frequencies": (operators.Fourier(jnp.asarray(lines, jnp.float32)), 0.05),
        "10 projections": (operators.Radon(jnp.linspace(0.0, 180.0, 10, endpoint=False)), 0.2),
        "high dynamic range": (operators.HighDynamicRange(2.0), 0.05),
        "phase retrieval": (operators.PhaseRetrieval(2.0), 0.05),
    }


def nonlinear_methods(model: Any, operator: Any, std: float, clip: Callable[[Any], Any]) -> dict[str, Case]:
    """Methods that ask for a likelihood or its gradient alone."""
    levels = gj.schedules.log_snr_uniform(SCHEDULE, 50, lo=0.01, hi=80.0)
    few, falling = (gj.schedules.karras(SCHEDULE, n, lo, hi) for n, lo, hi in ((25, 0.05, 20.0), (100, 0.1, 5.0)))
    likelihood = GaussianLikelihood(operator, std)
    langevin = inverse.LangevinStep(likelihood, 60, lambda level: 0.3 / (1 + (level.ratio / std) ** 2), adjusted=False)
    wide = GaussianLikelihood(operator, lambda level: jnp.sqrt(std**2 + 0.1 * level.ratio**2))
    return {
        "DPS": (inverse.DPS(clip(model), gj.DDIM(1.0), operator, 0.5), levels),
        "Reconstruction, wide": (gj.Reverse(clip(gj.Reconstruction(model, wide, 1.0)), gj.DDIM(1.0)), levels),
        "DAPS": (inverse.DAPS(clip(model), langevin, SCHEDULE, steps=4), few),
        "SplitGibbs": (inverse.SplitGibbs(clip(model), langevin, gj.DDIM(1.0), SCHEDULE, steps=8), few),
        "REDdiff": (inverse.REDdiff(clip(model), operator, std, rate=0.05), falling),
    }


def similarity(x: np.ndarray, y: np.ndarray) -> float:
    """SSIM of pictures (n, H, W, 1) in [-1, 1], by means over windows of 7 x 7 (Wang et al. 2004)."""

    def mean(a):
        return np.lib.stride_tricks.sliding_window_view(a[..., 0], (7, 7), (1, 2)).mean((-1, -2))

    x, y = x.astype(np.float64), y.astype(np.float64)
    mx, my = mean(x), mean(y)
    vx, vy, both = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    a, b = 0.02**2, 0.06**2
    return float((((2 * mx * my + a) * (2 * both + b)) / ((mx**2 + my**2 + a) * (vx + vy + b))).mean())


def measures(truth: np.ndarray, x: np.ndarray, operator: Any, y: Any, std: float) -> dict[str, float]:
    """Of samples (draws, n, H, W, 1) of `n` pictures."""
    mean = x.mean(0)
    error = np.sqrt(((mean - truth) ** 2).mean())
    seen = np.asarray(jax.vmap(jax.vmap(operator))(jnp.asarray(x)))
    return {
        "PSNR of a sample": float(10 * np.log10(4 / ((x - truth) ** 2).mean((-1, -2, -3))).mean()),
        "PSNR of the mean": float(10 * np.log10(4 / ((mean - truth) ** 2).mean((-1, -2, -3))).mean()),
        "SSIM of a sample": similarity(x.reshape(-1, *x.shape[2:]), np.tile(truth, (len(x), 1, 1, 1))),
        "residual / noise": float(np.sqrt(((seen - np.asarray(y)) ** 2).mean()) / std),
        # 1 of draws of the posterior: the error of their mean is that of one more draw, but for their number
        "spread / error": float(np.sqrt(x.var(0, ddof=1).mean() * (1 + 1 / len(x))) / error),
    }


@benchmark(quick={"pictures": 2, "draws": 2, "seeds": 1})
def restoration(
    pictures: int = 8, draws: int = 2, seeds: int = 3, folder: Path | None = None, known: list | None = None
) -> Iterator[Row]:
    """(half an hour on two cores) Which method restores which picture of Fashion-MNIST?

    `folder` gets a sheet of pictures for each operator.
    """
    example = gj.examples.fashion()
    model = gj.Unconditional(example.model, 10)
    truth = np.asarray(example.held_out.images[:pictures], np.float32)
    done = {(row["case"]["operator"], row["case"]["method"]): row for row in known or ()}
    for name, (operator, std) in picture_operators().items():
        if operators.base.is_linear(operator, truth.shape[1:]):
            cases = linear_methods(model, operator, std, 0.5, gj.Clip, steps=50)
        else:
            cases = nonlinear_methods(model, operator, std, gj.Clip)
        clean = jax.vmap(operator)(jnp.asarray(truth))
        y = clean + std * jax.random.normal(jax.random.key(1), clean.shape)
        sheet = {"truth": truth} | ({"seen": np.asarray(jnp.clip(y, -1, 1))} if y.shape == truth.shape else {})
        for method, (kernel, levels) in cases.items():
            if (name, method) in done and folder is None:
                continue
            found, first = [], None
            for seed in range(seeds):
                flat = gj.generate(
                    gj.keys(seed, draws * pictures),
                    kernel,
                    levels,
                    truth.shape[1:],
                    jnp.tile(y, (draws, *[1] * (y.ndim - 1))),
                )
                x = np.asarray(flat).reshape(draws, *truth.shape)
                first = x[0] if first is None else first
                found.append(measures(truth, x, operator, y, std))
            sheet[method] = np.clip(first, -1, 1)
            error = np.sqrt(seeds)
            values = {k: np.asarray([m[k] for m in found]) for k in found[0]}
            cost = ledger(kernel, levels, truth.shape[1:], y[0])
            yield Row(
                {"operator": name, "std": std, "method": method},
                {
                    k: Measure(float(v.mean()), float(v.std(ddof=1) / error) if seeds > 1 else None)
                    for k, v in values.items()
                },
                {"calls": sum(cost.calls.values()), "gradients": sum(cost.gradients.values())},
            )
        if folder is not None:
            contact_sheet(folder / f"{name.replace(' ', '_').replace(',', '')}.png", sheet, side=56)
