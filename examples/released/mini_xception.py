"""mini-Xception (Arriaga et al. 2017, arXiv 1710.07557): a small classifier of faces.

Sub-modules carry the names of Keras' layers, so that its weight files map one to one.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from guidance_jax.zoo.convolution import conv2d
from guidance_jax.zoo.layers import StoredNorm, zeros


class Plain(nn.Module):
    """A convolution, with a bias if asked for one."""

    features: int
    size: int = 3
    pad: int = 0
    bias: bool = False

    @nn.compact
    def __call__(self, x):
        w = self.param("kernel", nn.initializers.he_normal(), (self.size, self.size, x.shape[-1], self.features))
        x = conv2d(x, w, pad=(self.pad, self.pad))
        return x + self.param("bias", zeros, (self.features,)) if self.bias else x


class Separable(nn.Module):
    """Each channel by its own 3 x 3 kernel, then a mixture of channels.

    Nine products of shifted images: JAX's grouped convolution is slow on a CPU, in both directions.
    """

    features: int

    @nn.compact
    def __call__(self, x):
        each = self.param("depthwise_kernel", nn.initializers.he_normal(), (3, 3, x.shape[-1], 1))[..., 0]
        mix = self.param("pointwise_kernel", nn.initializers.he_normal(), (1, 1, x.shape[-1], self.features))[0, 0]
        (h, w, _), wide = x.shape, jnp.pad(x, ((1, 1), (1, 1), (0, 0)))
        return sum(wide[i : i + h, j : j + w] * each[i, j] for i in range(3) for j in range(3)) @ mix


class MiniXception(nn.Module):
    """A grey picture (64, 64, 1) in [-1, 1] to logits.

    Attributes:
      classes: how many.
    """

    classes: int = 7

    @nn.compact
    def __call__(self, x):
        def norm(i):
            return StoredNorm(1e-3, name=f"batch_normalization_{i}")

        for i in (1, 2):
            x = nn.relu(norm(i)(Plain(8, name=f"conv2d_{i}")(x)))
        for i in range(4):
            features, at = 16 << i, 3 * i + 3
            short = norm(at)(Plain(features, 1, name=f"conv2d_{i + 3}")(x)[::2, ::2])
            x = nn.relu(norm(at + 1)(Separable(features, name=f"separable_conv2d_{2 * i + 1}")(x)))
            x = norm(at + 2)(Separable(features, name=f"separable_conv2d_{2 * i + 2}")(x))
            x = halved(x) + short
        return jnp.mean(Plain(self.classes, 3, 1, True, name="conv2d_7")(x), (0, 1))


def halved(x: jax.Array) -> jax.Array:
    """The largest of 3 x 3 every second pixel, padded as TensorFlow's "same" does: more after than before."""
    pads = [((n - 1) // 2 * 2 + 3 - n) for n in x.shape[:2]]
    pads = [(p // 2, p - p // 2) for p in pads]
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (3, 3, 1), (2, 2, 1), (*pads, (0, 0)))
