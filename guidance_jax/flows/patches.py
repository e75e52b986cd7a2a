"""Patches written one after the other, block by block: the space of autoregressive flows.

A sample is a sequence of patches x (T, C). A flow of K blocks turns noise z into x, from block K - 1 to block 0. A
block goes from one end of the sequence to the other and writes

    x_{i+1} = b_i + exp(a_i) z_{i+1},     a_i, b_i functions of x_0 .. x_i        (the first patch stays as it is)

At level n of `patch_levels`, n of K (T - 1) patches have been written. The KV cache is the denoiser's state, and one
scan over the levels decodes the whole flow. Odd blocks go backwards.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from guidance_jax.core import Distribution, Level, Normal, Refused, Space, concrete, normal, pytree, static


def patch_levels(patches: int, blocks: int) -> Level:
    """Return the levels of a flow: t counts the patches written so far, alpha = t, sigma counts those to come.

    Args:
      patches: T, the length of a sample (T, C).
      blocks: K, the number of blocks of the flow.

    Raises:
      Refused: fewer than two patches, or no block.
    """
    if patches < 2 or blocks < 1:
        raise Refused(f"a flow needs at least two patches and one block, got {patches} patches and {blocks} blocks")
    t = jnp.arange(float(blocks * (patches - 1) + 1))
    return Level(t, t, t[-1] - t)


@dataclass(frozen=True)
class Patches(Space):
    """The space of a flow of several blocks, whose steps are functions of the starting noise.

    Attributes:
      blocks: K, the number of blocks.
    """

    blocks: int

    kind: ClassVar[str] = "flows of several blocks"
    solver: ClassVar[str] = "PatchByPatch()"

    def start(self, key, levels, shape):
        """Draw z ~ N(0, I)."""
        return normal(key, jnp.zeros(shape, jnp.promote_types(jnp.result_type(levels.t), jnp.float32)))

    def start_std(self, levels):
        return 1.0

    def check(self, levels, shape):
        if len(shape) != 2:
            raise Refused(f"a flow samples patches (T, C), got shape {tuple(shape)}; cut images by patchify")
        steps = self.blocks * (shape[0] - 1)
        if len(levels.t) != steps + 1 or (
            concrete(levels.t) and not np.array_equal(np.asarray(levels.t), np.arange(steps + 1.0))
        ):
            raise Refused(
                f"{shape[0]} patches and {self.blocks} blocks need {steps + 1} levels, got {len(levels.t)}; write "
                f"patch_levels({shape[0]}, {self.blocks})"
            )

    def place(self, level: Level, patches: int) -> tuple[Any, Any, Any]:
        """Return (block, step i within it, index of patch i); patch i is the one that is read at `level`."""
        n = jnp.asarray(level.t).astype(int)
        block = self.blocks - 1 - n // (patches - 1)
        i = n % (patches - 1)
        return block, i, in_order(block, i, patches)

    def flat(self, x, level):
        """Return a prediction whose density is constant in the next patch."""
        block, i, _ = self.place(level, len(x))
        c = x.shape[-1]
        return PatchPrediction(
            x, jnp.zeros(c, x.dtype), jnp.full(c, jnp.inf, x.dtype), in_order(block, i + 1, len(x)), self
        )


@dataclass(frozen=True)
class OneBlock(Patches):
    """The space of a flow of one block: every patch is a draw from a normal distribution, as tokens are in text.

    Attributes:
      blocks: always 1.
    """

    blocks: int = 1

    kind: ClassVar[str] = "flows of one block"


def in_order(block: Any, i: Any, patches: int) -> Any:
    """Return the index of the i-th patch in the order of `block`: odd blocks go backwards."""
    return jnp.where(block % 2 == 0, i, patches - 1 - i)


@pytree
class PatchPrediction:
    """The normal distribution of the next patch, N(mean, exp(log_std)^2).

    Attributes:
      x: (T, C), the patches; those that are not written yet hold their values from before this block.
      mean: (C,), the mean of the next patch.
      log_std: (C,), the log of its standard deviation.
      index: the index of the next patch.
      space: the space of the flow.
    """

    x: Any
    mean: Any
    log_std: Any
    index: Any
    space: Any = static()

    @property
    def x0(self) -> Any:
        """The patches so far, the next one at its mean, and zeros after it: the input of guides of a prefix."""
        written = jnp.arange(len(self.x))[:, None] < self.index
        return jnp.where(written, self.x, 0).at[self.index].set(self.mean.astype(self.x.dtype))

    def contrast(self, weak: "PatchPrediction", scale: Any, level: Level | None = None) -> "PatchPrediction":
        """Return the normalised product of normals p_weak^(1 - scale) p^scale (STARFlow, arXiv 2506.06276).

            precision = scale / std^2 + (1 - scale) / std_weak^2

        Above scale 1 a weak distribution narrower than the strong one counts as if it were as wide, which keeps the
        precision positive.
        """
        ratio = jnp.exp(2 * (self.log_std - weak.log_std))
        ratio = jnp.where(scale > 1, jnp.minimum(ratio, 1), ratio)
        total = scale + (1 - scale) * ratio
        finite = jnp.isfinite(weak.log_std)  # a flat distribution has no mean
        mean = jnp.where(finite, weak.mean, self.mean)
        mean = mean + scale / total * (self.mean - mean)
        log_std = self.log_std - 0.5 * jnp.log(total)
        mean, log_std = (
            jnp.where(scale == 1, own, jnp.where(scale == 0, other, both))
            for own, other, both in ((self.mean, weak.mean, mean), (self.log_std, weak.log_std, log_std))
        )
        return dataclasses.replace(self, mean=mean, log_std=log_std)


@pytree
class NextPatch(Distribution):
    """The distribution of the sequence after one more patch is written at its place.

    Attributes:
      normal: the distribution of that patch, of shape (C,).
      x: (T, C), the sequence so far.
      index: the index of that patch.
    """

    normal: Normal
    x: Any
    index: Any

    def draw(self, key):
        return self.x.at[self.index].set(self.normal.draw(key).astype(self.x.dtype))

    def log_prob(self, x):
        return self.normal.log_prob(x[self.index])

    def divergence(self, other):
        return self.normal.divergence(other.normal)
