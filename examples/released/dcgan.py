"""The generator of DCGAN (Radford et al. 2015, arXiv 1511.06434) as PyTorch's tutorial has it: 64 x 64 pictures."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from guidance_jax.zoo.layers import StoredNorm


class Doubled(nn.Module):
    """A transposed convolution, 4 x 4, stride 2, padding 1: one image of twice the size.

    Every pixel gives 4 x 4 values by one matrix product, and every new pixel adds up the four that fall on it: dense in
    both directions, where a convolution over inserted zeros is slow on a CPU. Along an axis the new pixel 2 i takes the
    tap 1 of pixel i and the tap 3 of pixel i - 1; the new pixel 2 i + 1 the tap 2 of i and the tap 0 of i + 1.
    """

    features: int

    @nn.compact
    def __call__(self, x):
        w = self.param("kernel", nn.initializers.normal(0.02), (4, 4, x.shape[-1], self.features))
        y = jnp.einsum("hwc,abcd->hawbd", x, w)
        return _interleaved(_interleaved(y, 0), 1)


def _interleaved(y: jax.Array, axis: int) -> jax.Array:
    """(..., n, 4, ...) to (..., 2 n, ...) at `axis`, by the rule above."""
    tap = [jnp.take(y, i, axis + 1) for i in range(4)]
    n = y.shape[axis]

    def shifted(a, by):
        pads = [(0, 0)] * a.ndim
        pads[axis] = (max(by, 0), max(-by, 0))
        return jax.lax.slice_in_dim(jnp.pad(a, pads), max(-by, 0), n + max(-by, 0), axis=axis)

    even, odd = tap[1] + shifted(tap[3], 1), tap[2] + shifted(tap[0], -1)
    both = jnp.stack([even, odd], axis + 1)
    return both.reshape(*y.shape[:axis], 2 * n, *both.shape[axis + 2 :])


class DCGAN(nn.Module):
    """z (100,) to a picture (64, 64, 3) in [-1, 1]; sub-modules carry the names of PyTorch's `nn.Sequential`.

    Attributes:
      width: channels of the last hidden layer; each one before has twice as many.
    """

    width: int = 64

    @nn.compact
    def __call__(self, z):
        x = nn.Dense(16 * 8 * self.width, use_bias=False, name="main_0")(z).reshape(4, 4, -1)
        x = nn.relu(StoredNorm(name="main_1")(x))
        for i in (3, 6, 9):
            x = Doubled(8 * self.width >> (i // 3), name=f"main_{i}")(x)
            x = nn.relu(StoredNorm(name=f"main_{i + 1}")(x))
        return jnp.tanh(Doubled(3, name="main_12")(x))
