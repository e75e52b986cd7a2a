"""Operators that are not linear, for methods that need only a likelihood or its gradient (DPS, DAPS, LGD, ...)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import Refused, pytree, static
from guidance_jax.operators.base import Operator
from guidance_jax.operators.linear import check_image


class Nonlinear(Operator):
    """Base class of operators that are not linear and have no adjoint."""

    @property
    def linear(self):
        return False


@pytree
class PhaseRetrieval(Nonlinear):
    """Measure the magnitudes of an image's frequencies without phases: y = |F x|, with the image padded by zeros.

    Attributes:
      oversample: the ratio of the padded sides to the image's own; 2 in the usual benchmarks. Below 2 the phases are
        lost.

    Raises:
      Refused: samples that are not images.
    """

    oversample: float = static(default=2.0)

    def check(self, shape):
        check_image(self, shape)

    def __call__(self, x):
        sides = [int(np.ceil(self.oversample * n)) for n in x.shape[:2]]
        found = jnp.fft.fft2(x, s=sides, axes=(0, 1), norm="ortho")
        square = jnp.real(found) ** 2 + jnp.imag(found) ** 2
        return jnp.sqrt(square + 1e-12)  # 1e-12 keeps the derivative finite at 0


@pytree
class HighDynamicRange(Nonlinear):
    """Overexpose an image and clip it to its range [-1, 1]: y = clip(gain x).

    Attributes:
      gain: the factor of the brightness; 2 in the usual benchmarks.
    """

    gain: Any = 2.0

    def __call__(self, x):
        return jnp.clip(self.gain * x, -1.0, 1.0)


# the standard's table of luminance at quality 50 (ITU-T T.81, Annex K)
_TABLE = (
    "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62 "
    "18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"
)


@pytree
class JPEG(Nonlinear):
    """Compress each channel in [-1, 1] as JPEG does: round cosine coefficients of 8 x 8 pixels by the usual table.

    Colours are neither converted nor subsampled. Gradients are those without rounding (straight-through).

    Attributes:
      quality: from 1 to 100, larger for finer steps; it scales the table by the usual formula.

    Raises:
      Refused: images whose sides 8 does not divide; another quality.
    """

    quality: int = static(default=50)

    def check(self, shape):
        check_image(self, shape)
        if shape[0] % 8 or shape[1] % 8:
            raise Refused(f"JPEG needs images with sides that 8 divides, got {tuple(shape)}; pad them")
        if not 1 <= self.quality <= 100:
            raise Refused(f"the quality of JPEG must be from 1 to 100, got {self.quality}; write 50")

    def __call__(self, x):
        h, w, c = x.shape
        scale = 5000 / self.quality if self.quality < 50 else 200 - 2 * self.quality
        table = np.clip(np.floor((np.array(_TABLE.split(), float) * scale + 50) / 100), 1, 255).reshape(8, 8)
        steps = jnp.asarray(table[:, :, None] / 127.5, x.dtype)
        blocks = x.reshape(h // 8, 8, w // 8, 8, c).transpose(0, 2, 1, 3, 4)
        found = jax.scipy.fft.dctn(blocks, axes=(2, 3), norm="ortho") / steps
        found = found + jax.lax.stop_gradient(jnp.round(found) - found)
        blocks = jax.scipy.fft.idctn(found * steps, axes=(2, 3), norm="ortho")
        return blocks.transpose(0, 2, 1, 3, 4).reshape(h, w, c)
