"""Inpainting by replacement (Song et al. 2021, arXiv 2011.13456); with `Recur`, RePaint (Lugmayr 2022, 2201.09865).

x_s <- mask (alpha_s y + sigma_s z) + (1 - mask) x_s
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import GaussianDiffusion, KernelWrapper, Level, Refused, concrete, normal, pytree, static
from guidance_jax.models.adapters import known_part, part_of
from guidance_jax.operators.base import check_measurement


def check_overwritable(wrapper: KernelWrapper) -> None:
    """Raise `Refused` if the weights of the population `wrapper.inner` would be wrong once entries are overwritten."""
    if not wrapper.inner.overwritable:
        name = type(wrapper).__name__
        raise Refused(
            f"{name} overwrites drawn entries, which the path weights of Corrected do not account for; use a reward "
            f"or a twist instead: {name}(SMC(Twisted(...)), ...)"
        )


def write_known(x: Any, y: Any, mask: Any, level: Level, key: Any) -> Any:
    """Return x with the entries of y, noised to the level, where `mask` is positive; NaN where `mask` is NaN."""
    known, mask = level.noise(jnp.broadcast_to(y, x.shape), normal(key, x)), jnp.asarray(mask)
    return jnp.where(jnp.isnan(mask), jnp.nan, jnp.where(mask > 0, known, x))


@pytree
class Inpaint(KernelWrapper):
    """Overwrite the known entries after every step of `inner` with those of y, noised to the level.

    At the clean level they are exactly y. RePaint is `Recur(Inpaint(kernel, mask), repeats)`. Samples do not follow the
    posterior, since the noised known entries do not depend on the unknown ones. For the posterior use `MMPS` with
    `Mask`, or `Twisted`.

    Attributes:
      inner: a kernel of images or vectors; also of a population, whose particles then share the known entries.
      mask: 1 where y is known, else 0; it broadcasts against x. 0 everywhere is `inner`.
      observed: which part of `cond` is y: a function of `cond`, the name of an entry, or None for all.

    Raises:
      Refused: a measurement of another shape than the sample; a mask that is not finite; tokens; a population that
        weighs whole paths.
    """

    inner: Any
    mask: Any
    observed: Callable | str | None = static(default=None)

    takes = GaussianDiffusion

    def check(self, levels, shape, cond):
        super().check(levels, shape, cond)
        check_overwritable(self)
        if concrete((cond, self.mask)):
            mask = np.asarray(self.mask)
            if not np.isfinite(mask).all():
                raise Refused(
                    "the mask of Inpaint holds numbers that are not finite; write 1 for known entries and 0 for the "
                    "others"
                )
            y = known_part(cond, self.observed)
            if np.shape(y)[np.ndim(y) - len(shape) :] == tuple(shape):
                check_measurement(self, np.where(mask > 0, y, 0.0))

    def __call__(self, carry, t, s, cond, key):
        inner_key, noise_key = jax.random.split(key)
        carry = self.inner(carry, t, s, cond, inner_key)
        y = part_of(cond, self.observed)
        event = carry.x.shape[1:] if self.population else carry.x.shape
        if jnp.shape(y) != event:
            raise Refused(
                f"Inpaint needs measurements with the shape of a sample, {event}, got {jnp.shape(y)}; fill the "
                "unknown entries with zeros"
            )
        return carry._replace(x=write_known(carry.x, y, self.mask, s, noise_key))
