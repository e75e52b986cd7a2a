"""Inception-v3 as FID uses it: TensorFlow's graph of 2015-12-05, with its own average and max pooling.

It differs from the Inception-v3 of Szegedy et al. 2015 (arXiv 1512.00567) as torch-fidelity and pytorch-fid do: 1,008
outputs, average pooling that leaves out the padding, max pooling in the last block. Sub-modules have the names of
those packages, so that their weight files map one to one.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.zoo.layers import StoredNorm

SIDE = 299
Kernel = int | tuple[int, int]
Chain = tuple[tuple[str, int, Kernel], ...]  # convolutions one after another: name, channels, kernel


class InceptionFeatures(NamedTuple):
    """The features of one image: `pool` (2048,) for FID, `spatial` (17 * 17 * 7,) for sFID, `logits` (1008,) for IS.

    The logits are without the bias of the last layer.
    """

    pool: Any
    spatial: Any
    logits: Any


class BasicConv(nn.Module):
    """Apply a convolution, batch normalisation with stored moments, and ReLU."""

    features: int
    kernel: Kernel
    stride: int = 1
    padded: bool = True

    @nn.compact
    def __call__(self, x):
        size = (self.kernel, self.kernel) if isinstance(self.kernel, int) else self.kernel
        return jnp.maximum(
            StoredNorm(1e-3, name="bn")(_Conv(self.features, size, self.stride, self.padded, name="conv")(x)), 0
        )


class _Conv(nn.Module):
    features: int
    size: tuple[int, int]
    stride: int
    padded: bool

    @nn.compact
    def __call__(self, x):
        w = self.param("kernel", nn.initializers.he_normal(), (*self.size, x.shape[-1], self.features))
        pads = [(k // 2, k // 2) if self.padded else (0, 0) for k in self.size]
        labels = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x[None], w, (self.stride, self.stride), pads, dimension_numbers=labels)[0]


def max_pool(x: jax.Array, stride: int = 2, pad: int = 0) -> jax.Array:
    return nn.max_pool(x, (3, 3), (stride, stride), [(pad, pad)] * 2)


def mean_pool(x: jax.Array) -> jax.Array:
    """Average each 3 x 3 window over the pixels that are inside the image."""
    return nn.avg_pool(x, (3, 3), (1, 1), [(1, 1)] * 2, count_include_pad=False)


class Mixed(nn.Module):
    """Concatenate the outputs of branches; each is a chain of convolutions, which may fork at its end."""

    chains: tuple[Chain, ...]
    pool: Chain | None = None  # the convolution after the pooling; None for pooling only
    reduce: bool = False  # the last convolution of each chain and the pooling have stride 2
    last: bool = False  # max pooling instead of mean
    forks: tuple[int, ...] = ()  # indices of chains whose last two convolutions have the same input

    @nn.compact
    def __call__(self, x):
        outputs = []
        for i, chain in enumerate(self.chains):
            h, split = x, len(chain) - 2 if i in self.forks else len(chain) - 1
            for name, features, kernel in chain[:split]:
                h = BasicConv(features, kernel, name=name)(h)
            stride = 2 if self.reduce else 1
            for name, features, kernel in chain[split:]:
                outputs.append(BasicConv(features, kernel, stride, not self.reduce, name=name)(h))
        if self.pool is None:
            return jnp.concatenate([*outputs, max_pool(x)], -1)
        ((name, features, kernel),) = self.pool
        pooled = max_pool(x, 1, 1) if self.last else mean_pool(x)
        return jnp.concatenate([*outputs, BasicConv(features, kernel, name=name)(pooled)], -1)


_THREE = (("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3))


def _a(pool):
    one, five = (("branch1x1", 64, 1),), (("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5))
    return dict(chains=(one, five, _THREE), pool=(("branch_pool", pool, 1),))


def _c(width):
    row, column, last = (1, 7), (7, 1), 192
    seven = (("branch7x7_1", width, 1), ("branch7x7_2", width, row), ("branch7x7_3", last, column))
    double: list = [("branch7x7dbl_1", width, 1)]
    double += [(f"branch7x7dbl_{i}", width if i < 5 else last, row if i % 2 else column) for i in range(2, 6)]
    return dict(chains=((("branch1x1", last, 1),), seven, tuple(double)), pool=(("branch_pool", last, 1),))


def _e(last):
    row, column = (1, 3), (3, 1)
    three = (("branch3x3_1", 384, 1), ("branch3x3_2a", 384, row), ("branch3x3_2b", 384, column))
    double: Chain = (("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3), ("branch3x3dbl_3a", 384, row))
    double = (*double, ("branch3x3dbl_3b", 384, column))
    chains = ((("branch1x1", 320, 1),), three, double)
    return dict(chains=chains, pool=(("branch_pool", 192, 1),), forks=(1, 2), last=last)


_B = dict(
    chains=(
        (("branch3x3", 384, 3),),
        (("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)),
    ),
    reduce=True,
)
_D = dict(
    chains=(
        (("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3)),
        (("branch7x7x3_1", 192, 1), *((f"branch7x7x3_{i}", 192, k) for i, k in ((2, (1, 7)), (3, (7, 1)), (4, 3)))),
    ),
    reduce=True,
)
BLOCKS = {"Mixed_5b": _a(32), "Mixed_5c": _a(64), "Mixed_5d": _a(64), "Mixed_6a": _B, "Mixed_6b": _c(128)}
BLOCKS |= {"Mixed_6c": _c(160), "Mixed_6d": _c(160), "Mixed_6e": _c(192), "Mixed_7a": _D}
BLOCKS |= {"Mixed_7b": _e(False), "Mixed_7c": _e(True)}


class Inception(nn.Module):
    """Map one image (H, W, 3) of any size, with values 0 to 255, to its `InceptionFeatures`.

    The spatial features are the first 7 channels of the 1 x 1 branch of TensorFlow's `mixed_6` (`Mixed_6d`), flattened
    with the channels last.
    """

    @nn.compact
    def __call__(self, image):
        x = (resize(image.astype(jnp.float32), SIDE) - 128) / 128
        x = BasicConv(32, 3, 2, False, name="Conv2d_1a_3x3")(x)
        x = BasicConv(32, 3, 1, False, name="Conv2d_2a_3x3")(x)
        x = max_pool(BasicConv(64, 3, name="Conv2d_2b_3x3")(x))
        x = BasicConv(80, 1, name="Conv2d_3b_1x1")(x)
        x = max_pool(BasicConv(192, 3, 1, False, name="Conv2d_4a_3x3")(x))
        spatial = x
        for name, block in BLOCKS.items():
            x = Mixed(**block, name=name)(x)
            if name == "Mixed_6d":  # the first branch comes first in the concatenation
                spatial = x[..., :7]
        pool = jnp.mean(x, (0, 1))
        fc = nn.Dense(1008, name="fc")
        logits = fc(pool) - fc(jnp.zeros_like(pool))
        return InceptionFeatures(pool, spatial.reshape(-1), logits)


def resize(image: jax.Array, side: int) -> jax.Array:
    """Resize to (side, side, C) as TensorFlow 1 does: bilinear, pixel i from i H / side, without antialiasing."""

    def along(x, axis):
        size = x.shape[axis]
        at = jnp.arange(side, dtype=jnp.float32) * np.float32(size / side)
        low = at.astype(jnp.int32)
        weight = jnp.expand_dims(at - low, [i for i in range(x.ndim) if i != axis])
        a, b = jnp.take(x, low, axis), jnp.take(x, jnp.minimum(low + 1, size - 1), axis)
        return a + (b - a) * weight

    return along(along(image, 1), 0)
