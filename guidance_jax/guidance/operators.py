"""Linear operators for inverse problems, matrix-free: y = A x, with the adjoint by transposing A's own program.

Any linear function of one sample is one (`Linear(f)`); masks, blur and downsampling come ready.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import Refused, concrete, converted, function, pytree, static


class Operator:
    """Base: `operator(x) -> y`; `adjoint(y, like)` has (A x).y = x.(A^T y) for x of the shape and type of `like`."""

    def __call__(self, x: Any) -> Any:
        raise NotImplementedError

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise `Refused` for samples of a shape that it does not take."""

    def adjoint(self, y: Any, like: Any) -> Any:
        """A^T y, of the shape of `like`."""
        return jax.linear_transpose(self, jax.ShapeDtypeStruct(jnp.shape(like), like.dtype))(y)[0]


@pytree
class Mask(Operator):
    """The entries where `mask` is 1, others 0: y has the shape of x.

    Attributes:
      mask: zeros and ones that broadcast against x.
    """

    mask: Any

    def __call__(self, x):
        return x * jnp.asarray(self.mask, x.dtype)


@pytree
class Blur(Operator):
    """A 2-D convolution of every channel of an image (H, W, C) with one kernel; zero outside.

    Attributes:
      kernel: (height, width), of odd sides.
    """

    kernel: Any

    @classmethod
    def gaussian(cls, std: float, size: int) -> "Blur":
        """A normalised Gaussian of `std` pixels on size x size."""
        line = np.exp(-0.5 * ((np.arange(size) - (size - 1) / 2) / std) ** 2)
        kernel = np.outer(line, line)
        return cls(jnp.asarray(kernel / kernel.sum(), jnp.float32))

    def __call__(self, x):
        # by Fourier transform: inside `lax.scan` on a CPU the gradient of a convolution is tens of times slower
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        kernel = jnp.asarray(self.kernel, wide.dtype)
        convolve = jax.vmap(lambda a: jax.scipy.signal.fftconvolve(a, kernel, mode="same"), -1, -1)
        return convolve(wide).astype(x.dtype)


@pytree
class Downsample(Operator):
    """Means over `factor` x `factor` pixels of an image (H, W, C).

    Attributes:
      factor: the sides of a block, in pixels.

    Raises:
      Refused: samples that are no images, or sides that `factor` does not divide.
    """

    factor: int = static()

    def check(self, shape):
        if len(shape) != 3 or shape[0] % self.factor or shape[1] % self.factor:
            raise Refused(f"Downsample({self.factor}) needs images (H, W, C) of sides it divides, got {tuple(shape)}")

    def __call__(self, x):
        h, w, c = x.shape
        return jnp.mean(x.reshape(h // self.factor, self.factor, w // self.factor, self.factor, c), (1, 3))


@pytree
class Linear(Operator):
    """Any linear function of one sample.

    Attributes:
      f: the function, x -> y.
      own_adjoint: its adjoint, y -> x; by default `jax.linear_transpose` of `f`.
    """

    f: Any = converted(function)
    own_adjoint: Any = converted(function, default=None)

    def __call__(self, x):
        return self.f(x)

    def adjoint(self, y, like):
        return super().adjoint(y, like) if self.own_adjoint is None else self.own_adjoint(y)


def as_operator(operator: Any) -> Any:
    """An `Operator` as it is, a function as `Linear(operator)`; all else `check_operator` refuses later."""
    return Linear(operator) if callable(operator) and not isinstance(operator, Operator) else operator


def check_operator(owner: Any, operator: Any, shape: tuple[int, ...]) -> None:
    """Raise `Refused`, for `owner`, unless `operator` is one and takes samples of `shape`."""
    if not isinstance(operator, Operator):
        raise Refused(
            f"the operator of {type(owner).__name__} is an Operator or a function of one sample, got "
            f"{type(operator).__name__}; write operators.Mask(mask)"
        )
    operator.check(shape)


def check_measurement(owner: Any, y: Any, std: Any = 1.0) -> None:
    """Raise `Refused`, for `owner`, if a measurement `y` or its noise `std` is known and cannot be used."""
    name = type(owner).__name__
    if concrete(std) and not np.all((np.asarray(std) > 0) & np.isfinite(np.asarray(std))):
        raise Refused(f"the noise of {name} is positive and finite, got std={std}; for an exact measurement write 1e-3")
    leaves = jax.tree.leaves(y)
    bad = sum(int((~np.isfinite(np.asarray(leaf))).sum()) for leaf in leaves if concrete(leaf) and np.size(leaf))
    if bad:
        raise Refused(
            f"the measurement of {name} has {bad} numbers that are not finite; fill them with 0 and leave them out by "
            "operators.Mask(mask)"
        )


def check_adjoint(operator: Any, shape: tuple[int, ...], tolerance: float = 1e-4, seed: int = 0) -> None:
    """The dot-product test: (A x).y = x.(A^T y) for random x and y.

    Args:
      operator: an `Operator` or a function.
      shape: of x.
      tolerance: relative, of both sides.
      seed: of x and y.

    Raises:
      Refused: an adjoint that does not belong to the operator, or an operator that is not linear.
    """
    operator = as_operator(operator)
    x_key, y_key, tangent_key = jax.random.split(jax.random.key(seed), 3)
    x, other = jax.random.normal(x_key, shape), jax.random.normal(tangent_key, shape)
    image = operator(x)
    y = jax.random.normal(y_key, image.shape)
    size = float(jnp.linalg.norm(image) * jnp.linalg.norm(y))
    twice = float(jnp.max(jnp.abs(operator(x + 2 * other) - image - 2 * operator(other))))
    if twice > tolerance * max(size, 1):
        raise Refused(f"the operator is not linear: A(x + 2 z) misses A x + 2 A z by {twice:.3g}; use Reconstruction")
    forth, back = float(jnp.sum(image * y)), float(jnp.sum(x * operator.adjoint(y, x)))
    if abs(forth - back) > tolerance * size:
        raise Refused(f"the adjoint does not match: <A x, y> = {forth:.6g}, <x, A^T y> = {back:.6g}; leave it out")


def residual_of(operator: Any, x0: Any, y: Any) -> Any:
    """y - A x0.

    Raises:
      Refused: a measurement of another shape than the operator gives.
    """
    image = operator(x0)
    if jnp.shape(y) != image.shape:
        raise Refused(
            f"the operator gives {image.shape}, the measurement has shape {jnp.shape(y)}; pass cond of shape (n, "
            f"{', '.join(map(str, image.shape))})"
        )
    return y - image
