"""What a guided sampler really samples, on a target where that is known."""

from typing import Any

import jax.numpy as jnp

from guidance_jax._typing import Array, Key
from guidance_jax.core import Level
from guidance_jax.oracles.gaussian import Bias, GaussianMixture
from guidance_jax.sample import generate, keys


def guidance_bias(
    key: Key[Array, ""],
    target: GaussianMixture,
    kernel: Any,
    levels: Level,
    label: int,
    scale: float,
    n: int = 5000,
) -> Bias:
    """The energy distance between samples of `kernel` for `label` and p(x) p(label | x)^scale, with its floor.

    The method under test is built on the mixture itself: `CFG(target, target.null_label, 3.0)` in a `Reverse`, say.

    Args:
      key: of the samples and of the exact draws.
      target: the mixture.
      kernel: the sampler under test.
      levels: as in `generate`.
      label, scale: of the guided target.
      n: samples.
    """
    shape = target.means.shape[1:]
    x = generate(keys(key, n), kernel, levels, shape, jnp.full(n, label))
    return target.bias(key, x, label, scale)
