"""Thresholds of statistical laws, which an exact sampler exceeds at most once in ten thousand times.

The floors that the library reports are the largest of a few distances: a law that asked for less would fail an exact
sampler every tenth or fiftieth time that its random numbers change.
"""

import functools

import numpy as np

from guidance_jax.oracles import monte_carlo_floor


@functools.cache
def _largest(target: bytes, n: int) -> float:
    return monte_carlo_floor(np.frombuffer(target), n, repeats=20_000)


def most_total_variation(target, n):
    """The largest total variation to `target` (K,) of 20,000 sets of n exact draws: one more exceeds it once in 20,001
    times.
    """
    return _largest(np.asarray(target, np.float64).tobytes(), n)


def most_energy_distance(exact, n):
    """The energy distance between two sets of n exact draws that they exceed once in 10,000 times.

    n / 2 times the distance is a sum of squared normals, weighed by the eigenvalues of the centred matrix of distances
    (Szekely & Rizzo 2013): here those of the exact draws given, of which a few hundred are enough, and 100,000 sums.
    """
    x = np.asarray(exact, np.float64)
    near = -np.linalg.norm(x[:, None] - x, axis=-1)
    centred = near - near.mean(0) - near.mean(1)[:, None] + near.mean()
    weights = np.linalg.eigvalsh(centred)[::-1] / len(x)
    sums = np.random.default_rng(0).chisquare(1, (100_000, 30)) @ weights[:30] + weights[30:].sum()
    return float(np.quantile(sums, 1 - 1e-4) * 2 / n)
