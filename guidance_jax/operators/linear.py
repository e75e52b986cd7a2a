"""Linear operators of images: masks, blur, downsampling, frequencies, projections."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import Refused, pytree, static
from guidance_jax.operators.base import SVD, Operator


def check_image(owner: Any, shape: tuple[int, ...], channels: tuple[int, ...] | None = None) -> None:
    """Raise `Refused`, for `owner`, unless `shape` is (H, W, C) with C one of `channels`; None allows any C."""
    if len(shape) != 3 or (channels is not None and shape[-1] not in channels):
        wanted = "C" if channels is None else " or ".join(map(str, channels))
        raise Refused(f"{type(owner).__name__} takes images (H, W, {wanted}), got {tuple(shape)}")


@pytree
class Mask(Operator):
    """Measure the entries where `mask` is 1. y has the shape of x, with 0 at the other entries.

    Attributes:
      mask: zeros and ones that broadcast against x.
    """

    mask: Any

    def __call__(self, x):
        return x * jnp.asarray(self.mask, x.dtype)

    def svd(self, like):
        values = jnp.abs(jnp.broadcast_to(jnp.asarray(self.mask, like.dtype), like.shape))
        return SVD(values, lambda x: x, lambda c: c)


@pytree
class Blur(Operator):
    """Convolve every channel of an image (H, W, C) with one 2-D kernel. It has singular values only with `wrap`.

    Attributes:
      kernel: (height, width), with odd sides.
      wrap: whether the image continues at its opposite side, as on a torus; otherwise it is zero outside.

    Raises:
      Refused: samples that are not images; a kernel with even sides; with `wrap`, images smaller than the kernel.
    """

    kernel: Any
    wrap: bool = static(default=False)

    @classmethod
    def gaussian(cls, std: float, size: int, wrap: bool = False) -> "Blur":
        """Return a blur by a normalised Gaussian of `std` pixels on `size` x `size` pixels."""
        line = np.exp(-0.5 * ((np.arange(size) - (size - 1) / 2) / std) ** 2)
        kernel = np.outer(line, line)
        return cls(jnp.asarray(kernel / kernel.sum(), jnp.float32), wrap)

    @classmethod
    def motion(cls, length: float, angle: float, wrap: bool = False) -> "Blur":
        """Return a blur by normalised straight motion of `length` pixels, at `angle` degrees: 0 is along a row."""
        half = int(np.ceil(length / 2))
        points = np.linspace(-(length - 1) / 2, (length - 1) / 2, max(1, int(np.ceil(length))))
        rows, columns = (half + points * f(np.deg2rad(angle)) for f in (np.sin, np.cos))
        kernel = np.zeros((2 * half + 1, 2 * half + 1))
        for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):  # each point's weight on the four pixels around it
            near_row, near_column = np.floor(rows).astype(int) + i, np.floor(columns).astype(int) + j
            share = (1 - np.abs(rows - near_row)) * (1 - np.abs(columns - near_column))
            np.add.at(kernel, (near_row % len(kernel), near_column % len(kernel)), share)
        return cls(jnp.asarray(kernel / kernel.sum(), jnp.float32), wrap)

    def check(self, shape):
        check_image(self, shape)
        sides = jnp.shape(self.kernel)
        if any(k % 2 == 0 for k in sides) or (self.wrap and (sides[0] > shape[0] or sides[1] > shape[1])):
            raise Refused(
                f"Blur needs a kernel with odd sides that fits into the image, got {sides} for {tuple(shape)}"
            )

    def __call__(self, x):
        # by Fourier transform: inside `lax.scan` on a CPU the gradient of a convolution is tens of times slower
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        kernel = jnp.asarray(self.kernel, wide.dtype)
        if self.wrap:
            spectrum = self._spectrum(x.shape, wide.dtype)
            return jnp.fft.irfft2(jnp.fft.rfft2(wide, axes=(0, 1)) * spectrum, s=x.shape[:2], axes=(0, 1)).astype(
                x.dtype
            )
        convolve = jax.vmap(lambda a: jax.scipy.signal.fftconvolve(a, kernel, mode="same"), -1, -1)
        return convolve(wide).astype(x.dtype)

    def _spectrum(self, shape: tuple[int, ...], dtype: Any, half: bool = True) -> Any:
        kernel = jnp.asarray(self.kernel, dtype)
        h, w = kernel.shape
        placed = jnp.zeros(shape[:2], dtype).at[:h, :w].set(kernel)
        placed = jnp.roll(placed, (-(h // 2), -(w // 2)), (0, 1))
        return (jnp.fft.rfft2 if half else jnp.fft.fft2)(placed)[..., None]

    def svd(self, like):
        if not self.wrap:
            raise Refused("Blur has singular values only for images that wrap around; write Blur(kernel, wrap=True)")
        values = jnp.abs(self._spectrum(like.shape, like.dtype, half=False))
        return _fourier(values, like.dtype)


def _fourier(values: Any, dtype: Any) -> SVD:
    """Return the decomposition of a filter of real images (H, W, C), with one singular value per frequency."""
    return SVD(
        values,
        lambda x: jnp.fft.fft2(x, axes=(0, 1), norm="ortho"),
        lambda c: jnp.real(jnp.fft.ifft2(c, axes=(0, 1), norm="ortho")).astype(dtype),
    )


@pytree
class Downsample(Operator):
    """Average blocks of `factor` x `factor` pixels of an image (H, W, C); for bicubic, use `Separable.bicubic`.

    Attributes:
      factor: the side of a block, in pixels.

    Raises:
      Refused: samples that are not images, or sides that `factor` does not divide.
    """

    factor: int = static()

    def check(self, shape):
        if len(shape) != 3 or shape[0] % self.factor or shape[1] % self.factor:
            raise Refused(
                f"Downsample({self.factor}) needs images (H, W, C) with sides that {self.factor} divides, got "
                f"{tuple(shape)}"
            )

    def __call__(self, x):
        h, w, c = x.shape
        return jnp.mean(x.reshape(h // self.factor, self.factor, w // self.factor, self.factor, c), (1, 3))

    def svd(self, like):
        f, (h, w, c) = self.factor, like.shape
        unit = np.full(f * f, 1 / f)  # the mean of a block is 1 / f of its coefficient on this vector
        unit[0] -= 1
        mirror = unit / max(np.linalg.norm(unit), 1e-30)  # Householder's reflection of the first axis onto that vector

        def reflect(blocks):
            axis = jnp.asarray(mirror, blocks.dtype)
            along = jnp.tensordot(blocks, axis, (2, 0), precision="highest")[:, :, None]
            return blocks - 2 * along * axis[:, None]

        def to(x):
            blocks = x.reshape(h // f, f, w // f, f, c).transpose(0, 2, 1, 3, 4)
            return reflect(blocks.reshape(h // f, w // f, f * f, c))

        def back(coefficients):
            blocks = reflect(coefficients).reshape(h // f, w // f, f, f, c)
            return blocks.transpose(0, 2, 1, 3, 4).reshape(h, w, c)

        return SVD(jnp.zeros((f * f, 1), like.dtype).at[0].set(1 / f), to, back)


@pytree
class Fourier(Operator):
    """Measure the frequencies that `mask` keeps, as in magnetic resonance imaging.

    y (H, W, 2) holds real and imaginary parts.

    Attributes:
      mask: (H, W), zeros and ones, in the order of `jnp.fft.fft2`: frequency 0 first.

    Raises:
      Refused: samples other than real images (H, W, 1) or complex ones as pairs (H, W, 2); a mask of another size.
    """

    mask: Any

    def check(self, shape):
        check_image(self, shape, (1, 2))
        if jnp.shape(self.mask) != tuple(shape[:2]):
            raise Refused(
                f"the mask of Fourier must have the size of the image, {tuple(shape[:2])}, got {jnp.shape(self.mask)}"
            )

    def __call__(self, x):
        values = x[..., 0] if x.shape[-1] == 1 else jax.lax.complex(x[..., 0], x[..., 1])
        found = jnp.fft.fft2(values, norm="ortho") * jnp.asarray(self.mask)
        return jnp.stack([jnp.real(found), jnp.imag(found)], -1).astype(x.dtype)

    def svd(self, like):
        mask = jnp.abs(jnp.asarray(self.mask, like.dtype))
        if like.shape[-1] == 1:  # in a real image a frequency and its opposite hold the same information
            opposite = jnp.roll(mask[::-1, ::-1], (1, 1), (0, 1))
            return _fourier(jnp.sqrt((mask**2 + opposite**2) / 2)[..., None], like.dtype)

        def back(c):
            found = jnp.fft.ifft2(c, norm="ortho")
            return jnp.stack([jnp.real(found), jnp.imag(found)], -1).astype(like.dtype)

        return SVD(mask, lambda x: jnp.fft.fft2(jax.lax.complex(x[..., 0], x[..., 1]), norm="ortho"), back)


@pytree
class Radon(Operator):
    """Sum an image (H, W, 1) along parallel rays, as in computed tomography: y has shape (angles, W).

    It is matrix-free and has no singular values; for small images `Matrix.of(Radon(angles), shape)` has them.

    Attributes:
      angles: the angles of the rays in degrees, (angles,).

    Raises:
      Refused: samples other than images of one channel.
    """

    angles: Any

    def check(self, shape):
        check_image(self, shape, (1,))

    def __call__(self, x):
        h, w, _ = x.shape
        rows, columns = jnp.mgrid[:h, :w].astype(x.dtype)
        rows, columns = rows - (h - 1) / 2, columns - (w - 1) / 2

        def project(angle):
            c, s = jnp.cos(angle), jnp.sin(angle)
            where = [c * rows - s * columns + (h - 1) / 2, s * rows + c * columns + (w - 1) / 2]
            turned = jax.scipy.ndimage.map_coordinates(x[..., 0], where, order=1)
            return jnp.sum(turned, 0)

        return jax.vmap(project)(jnp.deg2rad(jnp.asarray(self.angles, x.dtype)))
