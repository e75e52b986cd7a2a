"""How strong guidance is against the model's own score, level by level, along the guided trajectory."""

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
    """One level, means over samples: `ratio` sigma / alpha; `strength` |eps' - eps| / |eps|; `agreement` cos(eps',
    eps)."""

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

    Where `strength` is far above 1 the guide drowns the model; where `agreement` is near 1 a `Window` may leave the
    guide out. State of a method (momentum, reused gradients) starts afresh at each level.

    Args:
      keys, levels, shape, cond: as in `generate`.
      guided: the guided denoiser.
      base: the one it was made from.
      solver: moves along the guided trajectory.

    Raises:
      Refused: as `generate`; tokens.
    """
    check_kernel(Reverse(guided, solver), levels, shape, cond)
    if not isinstance(guided.space, GaussianDiffusion):
        raise Refused(f"guidance_by_level compares noises, which {guided.space.kind} have not; use guidance_bias")
    guided, base, solver, moved = jax.tree.map(strong, (guided, base, solver, levels))
    found = _compare(keys, guided, base, solver, moved, tuple(shape), jax.tree.map(jnp.asarray, cond))
    ratios = np.asarray(levels.ratio[:-1])
    return [GuidanceLevel(*map(float, row)) for row in zip(ratios, *map(np.asarray, found), strict=True)]
