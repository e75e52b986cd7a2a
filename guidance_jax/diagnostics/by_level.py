"""Compare the strength of guidance with the model's own score at each level of the guided trajectory."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax._typing import Array, Key
from guidance_jax.core import GaussianDiffusion, Level, Refused, norm, quotient
from guidance_jax.kernels.reverse import Reverse
from guidance_jax.sample import check_kernel, sample, strong


class GuidanceLevel(NamedTuple):
    """Guidance at one level, with eps the unguided and eps' the guided noise prediction. Means over the samples.

    Attributes:
      ratio: sigma / alpha of the level.
      strength: |eps' - eps| / |eps|.
      agreement: the cosine of the angle between eps' and eps.
    """

    ratio: float
    strength: float
    agreement: float


@partial(jax.jit, static_argnames="shape")
def _compare(keys, guided, base, solver, levels, shape, cond):
    def one(key, cond):
        start_key, step_key = jax.random.split(key)
        x = guided.start(start_key, levels, shape)
        _, after = sample(step_key, Reverse(guided, solver), levels, x, cond, record=lambda carry: carry.x)
        xs = jnp.concatenate([x[None], after[:-1]])

        def at(x, level):
            own, other = (m(x, level, cond, m.init(x), step_key)[0].eps for m in (base, guided))
            change, size = norm(other - own), norm(own)
            return quotient(change, size), quotient(jnp.sum(own * other), size * norm(other))

        return jax.lax.map(lambda pair: at(*pair), (xs, levels.at(slice(None, -1))))

    strengths, agreements = jax.vmap(one)(keys, cond)
    return jnp.mean(strengths, 0), jnp.mean(agreements, 0)


def guidance_by_level(
    keys: Key[Array, " n"], guided: Any, base: Any, solver: Any, levels: Level, shape: tuple[int, ...], cond: Any = None
) -> list[GuidanceLevel]:
    """Compare a guided denoiser with the one it was made from at every level of its own trajectory.

    Where `strength` is far above 1, guidance dominates the model. Where `agreement` is near 1, a `Window` may skip
    guidance. The state of a method (momentum, reused gradients) is initialised anew at each level.

    Args:
      keys, levels, shape, cond: as in `generate`.
      guided: the guided denoiser.
      base: the denoiser that it was made from.
      solver: the solver of the guided trajectory.

    Raises:
      Refused: levels, shapes or conditions that a part refuses; tokens.
    """
    check_kernel(Reverse(guided, solver), levels, shape, cond)
    if not isinstance(guided.space, GaussianDiffusion):
        raise Refused(
            f"guidance_by_level compares noise predictions, which {guided.space.kind} do not have; use guidance_bias"
        )
    guided, base, solver, moved = jax.tree.map(strong, (guided, base, solver, levels))
    found = _compare(keys, guided, base, solver, moved, tuple(shape), jax.tree.map(jnp.asarray, cond))
    ratios = np.asarray(levels.ratio[:-1])
    return [GuidanceLevel(*map(float, row)) for row in zip(ratios, *map(np.asarray, found), strict=True)]
