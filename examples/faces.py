"""Faces: guidance through a real network from latents to 64 x 64 colour pictures, where the truth can still be
computed.

The prior of the latents is N(0, I), so the denoiser is exact; what a method gets wrong is the method's. The posterior
p(z) p(y | picture(z))^scale comes by importance sampling from draws of the prior, which works while a measurement says
a few nats: hence the noise of the measured table. Pictures of sharper measurements are beside it, without a truth.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import CLEAN, Guide, pytree
from guidance_jax.guidance.lgd import LGD
from guidance_jax.guidance.likelihoods import Decoded, GaussianLikelihood
from guidance_jax.guidance.reconstruction import Reconstruction
from guidance_jax.inverse import DAPS, DPG, DPS, LangevinStep, SplitGibbs
from guidance_jax.kernels.reverse import Reverse
from guidance_jax.operators import Blur, Downsample, Mask
from guidance_jax.particles.best_of import BestOf
from guidance_jax.particles.steering import Steered
from guidance_jax.particles.twisted import Twisted
from guidance_jax.pictures import contact_sheet
from guidance_jax.sample import generate, keys
from guidance_jax.schedules import Cosine, log_snr_uniform
from guidance_jax.solvers.ddim import DDIM
from guidance_jax.solvers.ddpm import DDPM, fixed_large
from released import faces
from released.latents import Seen, decoded, prior
from table import About, Method, Row, compare, one_of_population, real, run, samples_of, write_rows

ABOUT = About(
    ("faces.json", "faces.png", "happy.png"),
    "Latents of a released face generator, guided through it",
    "distance: energy distance of coarse pictures to the posterior by importance sampling; its row has the floor.",
    {"samples": 8, "steps": 4, "draws": 512},
)

HAPPY = faces.EXPRESSIONS.index("happy")
PARTICLES = 4
LANGEVIN = 20  # steps near a point, of DAPS and split Gibbs
NOISE = DDPM(fixed_large)  # whose variance is exact of a standard normal prior, at any number of steps


@dataclass(frozen=True)
class Task:
    """What is known of a face: `guide` of pictures gives log p(y | picture), y = `cond`, to the power `scale`."""

    name: str
    guide: Any
    cond: Any
    scale: float = 1.0


def operators() -> dict[str, tuple[Any, float, float]]:
    """What is measured, the noise of the table and that of the pictures, both in units of a pixel from -1 to 1."""
    rows = np.ones((64, 64, 1), np.float32)
    rows[20:44] = 0  # the eyes and the nose
    return {
        "inpainting": (Mask(jnp.asarray(rows)), 12.0, 0.3),
        "deblurring": (Blur.gaussian(4.0, 17), 12.0, 0.3),
        "super-resolution, 8 times": (Downsample(8), 1.0, 0.05),
    }


def tasks(generator: faces.Generator, expressions: faces.Expressions) -> list[Task]:
    """Three measurements of one face and the wish for a happy one."""
    first, second = jax.random.split(jax.random.key(7))
    picture = generator(jax.random.normal(first, (faces.SIZE,)))
    found = []
    for name, (operator, std, _) in operators().items():
        y = operator(picture)
        y = y + std * jax.random.normal(second, y.shape)
        found.append(Task(name, Decoded(GaussianLikelihood(operator, std), generator), y))
    return [*found, Task("a happy face, scale 3", Decoded(expressions, generator), jnp.int32(HAPPY), 3.0)]


@pytree
class Scaled(Guide):
    """log p of a guide times a number, for methods that have no scale of their own."""

    guide: Any
    scale: float

    def log_prob(self, x: Any, level: Any, cond: Any) -> Any:
        return self.scale * self.guide.log_prob(x, level, cond)


class Posterior:
    """Weighted draws of p(z) p(y | picture(z))^scale: of the picture's coarse features, and of log p(y | picture)."""

    def __init__(self, task: Task, features: np.ndarray, values: np.ndarray):
        log_w = task.scale * values.astype(np.float64)
        weights = np.exp(log_w - log_w.max())
        self.ess = float(weights.sum() ** 2 / (weights**2).sum())
        kept = np.argsort(-weights)[:2000]
        self.weights = weights[kept] / weights[kept].sum()
        self.features, self.value = features[kept], float(np.sum(weights * values) / weights.sum())
        self.spread = self.weights @ distances(self.features, self.features) @ self.weights

    def distance(self, features: np.ndarray) -> float:
        """The energy distance of samples' features (n, d) from the posterior."""
        across = np.mean(distances(features, self.features) @ self.weights)
        return float(2 * across - distances(features, features).mean() - self.spread)

    def draw(self, n: int, seed: int) -> np.ndarray:
        """The features of n draws."""
        return self.features[np.random.default_rng(seed).choice(len(self.weights), n, p=self.weights)]


def distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """|x_i - y_j|, (n, m)."""
    square = np.sum(x**2, 1)[:, None] + np.sum(y**2, 1) - 2 * x @ y.T
    return np.sqrt(np.maximum(square, 0))


def coarse(pictures: Any) -> Any:
    """Means over 8 x 8 pixels, (n, 192)."""
    return jax.vmap(Downsample(8))(pictures).reshape(len(pictures), -1)


def posteriors(generator: faces.Generator, tasks: list[Task], draws: int) -> list[Posterior]:
    """The truth of every task from the same draws of the prior."""

    @jax.jit
    def one(key):
        z = jax.random.normal(key, (256, faces.SIZE))
        values = [jax.vmap(lambda z, task=task: task.guide.value(z, CLEAN, task.cond))(z) for task in tasks]
        return coarse(jax.vmap(generator)(z)), jnp.stack(values)

    found = [jax.device_get(one(key)) for key in keys(2024, max(draws // 256, 1))]
    features, values = np.concatenate([f for f, _ in found]), np.concatenate([v for _, v in found], 1)
    return [Posterior(task, features, own) for task, own in zip(tasks, values, strict=True)]


def methods(task: Task, steps: int) -> dict[str, Method]:
    """Ways to guide the exact denoiser; scale 1 is the posterior for all of them."""
    latents, levels, shape = prior(faces.SIZE), log_snr_uniform(Cosine(), steps), (faces.SIZE,)
    n, wanted = PARTICLES, (task.scale,)

    def kernel(make):
        return samples_of(make, levels, shape, task.cond)

    def population(move):
        return one_of_population(move, levels, shape, task.cond, n)

    near = LangevinStep(Scaled(task.guide, task.scale), steps=LANGEVIN)
    inner = 5  # steps from each level to the clean one
    return {
        "no guidance": Method(kernel(lambda w: Reverse(latents, NOISE)), (0.0,), (steps, 0)),
        "reconstruction": Method(
            kernel(lambda w: Reverse(Reconstruction(latents, task.guide, w), NOISE)), wanted, (steps, 3 * steps)
        ),
        "LGD, 3 draws": Method(
            kernel(lambda w: Reverse(LGD(latents, task.guide, w, draws=3), NOISE)), wanted, (steps, 9 * steps)
        ),
        "DPG, 16 draws": Method(
            kernel(lambda w: Reverse(DPG(latents, task.guide, w, draws=16), NOISE)), wanted, (2 * steps, 16 * steps)
        ),
        "DAPS": Method(
            kernel(lambda w: DAPS(latents, near, Cosine(), steps=inner)), wanted, (inner * steps, 3 * LANGEVIN * steps)
        ),
        "split Gibbs": Method(
            kernel(lambda w: SplitGibbs(latents, near, DDIM(1.0), Cosine(), steps=inner)),
            wanted,
            (inner * steps, 3 * LANGEVIN * steps),
        ),
        f"best of {n}, drawn by weight": Method(
            population(lambda w: BestOf(Reverse(latents, NOISE), task.guide, w)), wanted, (n * steps, n)
        ),
        f"FK steering, {n} particles": Method(
            population(lambda w: Steered(latents, NOISE, task.guide, w)), wanted, (n * steps, n * steps)
        ),
        f"twisted, {n} particles": Method(
            population(lambda w: Twisted(latents, NOISE, task.guide, w)), wanted, (n * steps, 3 * n * steps)
        ),
    }


def measures_of(generator: faces.Generator, task: Task, truth: Posterior) -> Callable[[np.ndarray], dict[str, float]]:
    """The measures of samples z (n, 100) of a task."""

    @jax.jit
    @jax.vmap
    def looked_at(z):
        return generator(z), task.guide.value(z, CLEAN, task.cond)

    def measure(z):
        pictures, values = looked_at(z)
        return {"log p(y | x)": float(np.mean(values)), "distance": truth.distance(np.asarray(coarse(pictures)))}

    return measure


def restored(generator: faces.Generator, out: Path, steps: int, columns: int = 8) -> dict[str, float]:
    """Draw `faces.png`: faces, what is measured of them with little noise, and what DPS makes of it.

    Returns:
      {what is measured: the residual's root mean square over the noise's}; 1 is a fit to the noise.
    """
    first, second = jax.random.split(jax.random.key(11))
    pictures = decoded(generator, jax.random.normal(first, (columns, faces.SIZE)), 64)
    rows, fits = {"faces": np.asarray(pictures)}, {}
    for name, (operator, _, std) in operators().items():
        clean = jax.vmap(operator)(pictures)
        y = clean + std * jax.random.normal(second, clean.shape)
        kernel = DPS(prior(faces.SIZE), NOISE, Seen(operator, generator), 0.5)
        z = generate(keys(0, columns), kernel, log_snr_uniform(Cosine(), steps), (faces.SIZE,), y)
        found = decoded(generator, z, 64)
        fits[name] = float(jnp.sqrt(jnp.mean((jax.vmap(operator)(found) - y) ** 2)) / std)
        seen = y if y.shape == pictures.shape else jax.image.resize(y, pictures.shape, "nearest")
        rows |= {f"{name}: seen": np.asarray(jnp.clip(seen, -1, 1)), f"{name}: restored": np.asarray(found)}
    contact_sheet(out, rows, side=64)
    return fits


def demo(
    out: Path, data: str | Path | None = None, *, samples: int = 24, steps: int = 15, draws: int = 8192
) -> tuple[list[Row], dict[str, str]]:
    """Guide the latents of faces by measurements and by a classifier; `faces.json` and two PNGs in `out`.

    Returns:
      (the table, how well sharp measurements are fitted).

    Raises:
      Refused: a file is missing and cannot be fetched; the message says how to get it.
    """
    generator = faces.generator(data, download=True)
    asked = tasks(generator, faces.expressions(data, download=True))
    rows, happy = [], {}
    for task, truth in zip(asked, posteriors(generator, asked, draws), strict=True):
        for row, z in compare(methods(task, steps), measures_of(generator, task, truth), samples):
            rows.append(Row(f"{task.name}: {row.method}", *list(vars(row).values())[1:]))
            if task.cond.shape == ():
                happy[row.method] = np.asarray(decoded(generator, jnp.asarray(z[:8]), 64))
        floor = float(np.mean([truth.distance(truth.draw(samples, seed)) for seed in range(5)]))
        exact = {"log p(y | x)": truth.value, "distance": floor}
        rows.append(real(f"{task.name}: importance sampling, ESS {truth.ess:.0f}", exact))
    fits = restored(generator, out / "faces.png", 4 * steps)
    contact_sheet(out / "happy.png", happy, side=64)
    about = {"generator": "gan-face-generate 1.1.1 (MIT)", "classifier": "fer 25.10.3 (MIT)"}
    write_rows(out / "faces.json", rows, samples=samples, steps=steps, prior_draws=draws, sharp_residuals=fits, **about)
    return rows, {f"{name}, restored": f"residual {fit:.2f} of the noise" for name, fit in fits.items()}


if __name__ == "__main__":
    run(ABOUT, demo)
