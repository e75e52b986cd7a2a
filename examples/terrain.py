"""Terrain: a one-step generator of height fields, guided through its map to what is known or wanted of a place.

The latents are N(0, I) in 16,384 dimensions, where the denoiser is exact. Half a map is continued, heights are pinned
at
points, a road is kept level, and a second tile goes on from the first: inpainting of the strip that they share, beside
the package's own way, which blends two fields that do not know of each other.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.inverse import DPS
from guidance_jax.sample import generate, keys
from guidance_jax.schedules import Cosine, log_snr_uniform
from guidance_jax.solvers.ddpm import DDPM, fixed_large
from released.latents import Seen, decoded, prior
from released.terrain import SHAPE, SIZE, Terrain, field_of, metres, terrain
from table import About, Method, Row, compare, real, run, write_rows

ABOUT = About(
    ("terrain.json", "terrain.png"),
    "A one-step terrain generator, guided through its map",
    "miss: root mean square of what was asked, metres; rough: mean difference of neighbours, metres.",
    {"samples": 2, "steps": 4},
)

NOISE = DDPM(fixed_large)  # whose variance is exact of a standard normal prior, at any number of steps
STRIP, EDGE = 32, 4  # pixels that two tiles share; pixels at the border that the network speckles
PINS = ((32, 32), (32, 96), (96, 32), (96, 96), (64, 64))
HEIGHTS = (0.2, 1.0, 1.0, 0.2, 2.0)  # metres, at the pins
ROAD = slice(60, 68)
SCALE = 0.05  # of DPS, in units of z


@dataclass(frozen=True)
class Half:
    """The columns up to `end`."""

    end: int = 64

    def __call__(self, field):
        return field[:, : self.end]


@dataclass(frozen=True)
class Pins:
    """The field at `PINS`, each the mean of 3 x 3 pixels."""

    weight: float = 8.0

    def __call__(self, field):
        return self.weight * jnp.stack([jnp.mean(field[i - 1 : i + 2, j - 1 : j + 2]) for i, j in PINS])


@dataclass(frozen=True)
class Slope:
    """The differences of neighbours along a road across the map."""

    weight: float = 8.0

    def __call__(self, field):
        return self.weight * jnp.diff(jnp.mean(field[ROAD, EDGE:-EDGE, 0], 0))


def guided(generator: Terrain, look: Any, wanted: Any, steps: int) -> Callable[[Any, float], np.ndarray]:
    """`draw(keys, scale)`: fields whose latents are led to what `look` should see, by diffusion posterior sampling."""
    levels = log_snr_uniform(Cosine(), steps)

    def draw(keys, scale):
        kernel = DPS(prior(SIZE), NOISE, Seen(look, generator), jnp.float32(scale))
        z = [generate(key[None], kernel, levels, (SIZE,), wanted[None])[0] for key in keys]  # one at a time: memory
        return np.asarray(decoded(generator, jnp.stack(z)))

    return draw


def missed(fields: Any, look: Any, wanted: Any) -> float:
    """The root mean square of what was asked for and is not there, metres; of a slope, metres a pixel."""
    seen, wanted = np.stack([np.asarray(look(jnp.asarray(f))) for f in fields]), np.asarray(wanted)
    if isinstance(look, Slope):
        metres_a_unit = float(jax.grad(metres)(-0.3))  # near the middle of what fields are
        return float(np.sqrt(np.mean((metres_a_unit * (seen - wanted) / look.weight) ** 2)))
    weight = look.weight if isinstance(look, Pins) else 1.0
    return float(np.sqrt(np.mean((metres(seen / weight) - metres(wanted / weight)) ** 2)))


def blended(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Two fields (128, 128, 1) side by side, which share `STRIP` columns, faded into each other there."""
    fade = np.linspace(1, 0, STRIP)[None, :, None]
    shared = fade * first[:, -STRIP:] + (1 - fade) * second[:, :STRIP]
    return np.concatenate([first[:, :-STRIP], shared, second[:, STRIP:]], 1)


def roughness(field: Any) -> float:
    """The mean difference of neighbours, metres, without the border."""
    heights = np.asarray(metres(jnp.asarray(field)))[EDGE:-EDGE, EDGE:-EDGE, 0]
    return float((np.abs(np.diff(heights, axis=0)).mean() + np.abs(np.diff(heights, axis=1)).mean()) / 2)


def tiled(generator: Terrain, steps: int, pictures: dict[str, np.ndarray]) -> list[Row]:
    """Rows of two tiles side by side: as the package blends them, and the second inpainted from the first's strip."""
    first, second = jax.random.normal(jax.random.key(7), (2, *SHAPE))
    second = second.at[:, :STRIP].set(first[:, -STRIP:])  # its tiles share the noise where they overlap
    one, other = np.asarray(decoded(generator, jnp.stack([first, second]).reshape(2, SIZE)))
    went_on = guided(generator, Half(STRIP), jnp.asarray(one[:, -STRIP:]), steps)(keys(5, 1), SCALE)[0]
    rows = []
    for name, tile, calls in (
        ("blended, as the package does", other, 1),
        ("inpainted, then blended", went_on, 2 * steps),
    ):
        field, apart = blended(one, tile), metres(one[:, -STRIP:]) - metres(tile[:, :STRIP])
        pictures[f"two tiles, {name}"] = field[None]
        measures = {"miss": float(np.sqrt(np.mean(np.asarray(apart) ** 2))), "rough": roughness(field)}
        rows.append(Row(f"two tiles, {name}", SCALE if calls > 1 else 0.0, measures, calls, 0, 0.0))
    return rows


def save_relief(path: Path, pictures: dict[str, np.ndarray]) -> None:
    """Rows of fields as shaded relief, each with its name."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.colors import LightSource

    columns = max(len(fields) for fields in pictures.values())
    figure, axes = plt.subplots(len(pictures), columns, figsize=(2.2 * columns, 2.3 * len(pictures)), squeeze=False)
    for line, (name, fields) in zip(axes, pictures.items(), strict=True):
        for axis in line:
            axis.axis("off")
        for axis, field in zip(line, fields, strict=False):
            heights = np.asarray(metres(jnp.asarray(field)))[..., 0]
            axis.imshow(LightSource(315, 45).shade(heights, plt.cm.terrain, vert_exag=20, blend_mode="soft"))
        line[0].set_title(name, fontsize=8, loc="left")
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def difficulties(generator: Terrain, n: int) -> dict[str, Any]:
    """Fields of three difficulties from the same latents."""
    z = jax.random.normal(jax.random.key(0), (n, SIZE))
    at = {d: dataclasses.replace(generator, difficulty=jnp.float32(d)) for d in (1, 50, 100)}
    return {f"difficulty {d}": np.asarray(decoded(made, z)) for d, made in at.items()}


def in_steps(generator: Terrain, n: int) -> dict[str, np.ndarray]:
    """Consistency sampling in 1, 2 and 4 steps, as if the network were a consistency function at every level."""
    found = {}
    for count in (1, 2, 4):
        sigmas = [80.0, 5.6569, 0.4, 0.0283][:: 4 // count] if count > 1 else [80.0]

        @jax.jit
        def draw(key, sigmas=tuple(sigmas)):
            z = jax.random.normal(key, (len(sigmas), *SHAPE))
            x = generator.at(sigmas[0] * z[0], jnp.float32(sigmas[0]))
            for sigma, noise in zip(sigmas[1:], z[1:], strict=True):
                x = generator.at(x + sigma * noise, jnp.float32(sigma))
            return x

        found[f"{count} step{'s' * (count > 1)}"] = np.stack([np.asarray(draw(key)) for key in keys(0, n)])
    return found


def demo(
    out: Path, data: str | Path | None = None, *, samples: int = 2, steps: int = 36
) -> tuple[list[Row], dict[str, str]]:
    """Draw and guide height fields, and write `terrain.json` and `terrain.png` to `out`.

    Returns:
      (the table, what the pictures show).

    Raises:
      Refused: a file is missing and cannot be fetched; the message says how to get it.
    """
    generator = terrain(50.0, data, download=True)
    pictures = difficulties(generator, samples) | in_steps(generator, samples)
    rows = [
        real(name, {"miss": float("nan"), "rough": float(np.mean([roughness(f) for f in fields]))})
        for name, fields in pictures.items()
    ]
    known = decoded(generator, jax.random.normal(jax.random.key(7), (1, SIZE)))[0]
    free = decoded(generator, jax.random.normal(jax.random.key(3), (samples, SIZE)))
    asked = {
        "half a map continued": (Half(), Half()(known)),
        "heights at five points": (Pins(), Pins().weight * field_of(jnp.asarray(HEIGHTS))),
        "a level road": (Slope(), jnp.zeros(128 - 2 * EDGE - 1)),
    }
    for name, (look, wanted) in asked.items():

        def measure(fields, look=look, wanted=wanted):
            rough = float(np.mean([roughness(f) for f in fields]))
            return {"miss": missed(fields, look, wanted), "rough": rough}

        rows.append(Row(f"{name}: not asked for", 0.0, measure(free), 1, 0, 0.0))
        method = Method(guided(generator, look, wanted, steps), (SCALE,), (2 * steps, 0))
        for row, fields in compare({f"{name}: DPS through the map": method}, measure, samples):
            rows.append(row)
            pictures[name] = fields
    rows += tiled(generator, steps, pictures)
    save_relief(out / "terrain.png", pictures)
    about = {"generator": "adaptive-terrain-diffusion 0.4.2 (MIT)", "unit": "metres"}
    write_rows(out / "terrain.json", rows, samples=samples, steps=steps, **about)
    return rows, {"terrain.png": ", ".join(pictures)}


if __name__ == "__main__":
    run(ABOUT, demo)
