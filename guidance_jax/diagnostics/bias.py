"""Compare what a guided sampler really samples with a target that is known exactly."""

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
    """Return the energy distance between samples of `kernel` for `label` and p(x) p(label | x)^scale, with its floor.

    Build the method under test on the mixture itself, for example `CFG(target, target.null_label, 3.0)` in a `Reverse`.

    Args:
      key: the key of the samples and of the exact draws.
      target: the mixture.
      kernel: the sampler under test.
      levels: as in `generate`.
      label: the label of the samples and of the guided target.
      scale: the scale of the guided target.
      n: the number of samples.
    """
    shape = target.means.shape[1:]
    x = generate(keys(key, n), kernel, levels, shape, jnp.full(n, label))
    return target.bias(key, x, label, scale)
