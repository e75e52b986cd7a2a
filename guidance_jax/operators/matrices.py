"""Operators as matrices that are decomposed once: any small operator, or one matrix for rows and one for columns."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import Refused, converted, pytree, static
from guidance_jax.operators.base import SVD, Operator, as_operator
from guidance_jax.operators.linear import check_image


@pytree
class Factored:
    """A matrix with its singular values and its right singular vectors.

    Attributes:
      matrix: (m, n).
      values: the singular values, padded with zeros, (n,).
      vectors: V^T, (n, n).
    """

    matrix: Any
    values: Any
    vectors: Any


def factor(matrix: Any) -> Factored:
    """Decompose a `matrix` in float64 and store the result in float32; return a `Factored` unchanged.

    Raises:
      Refused: anything but a matrix of finite numbers.
    """
    if isinstance(matrix, Factored):
        return matrix
    wide = np.asarray(matrix, np.float64)
    if wide.ndim != 2 or not np.isfinite(wide).all():
        raise Refused(
            f"a matrix must have shape (m, n) and finite entries, got shape {wide.shape}; write Matrix.of(operator, "
            "shape)"
        )
    _, values, vectors = np.linalg.svd(wide, full_matrices=True)
    padded = np.zeros(wide.shape[1])
    padded[: len(values)] = values
    return Factored(*(jnp.asarray(a, jnp.float32) for a in (wide, padded, vectors)))


def _apply(matrix: Any, x: Any, axis: int = 0) -> Any:
    """Multiply `axis` of x by `matrix`."""
    return jnp.moveaxis(jnp.tensordot(matrix.astype(x.dtype), x, (1, axis), precision="highest"), 0, axis)


@pytree
class Matrix(Operator):
    """Multiply the flattened sample by a matrix, y = M x: any small linear operator.

    Attributes:
      matrix: M, (m, n), with n the number of entries of a sample.
      shape: the shape of y; None for (m,).

    Raises:
      Refused: anything but a matrix of finite numbers; samples of another size.
    """

    matrix: Any = converted(factor)
    shape: tuple[int, ...] | None = static(default=None)

    @classmethod
    def of(cls, operator: Any, shape: tuple[int, ...]) -> "Matrix":
        """Return the matrix of a linear `operator` for samples of `shape`, by one call per entry of a sample.

        >>> from guidance_jax import operators
        >>> operators.Matrix.of(lambda x: x[:1] - x[1:], (2,)).pinv(jnp.ones(1), jnp.zeros(2)).round(3).tolist()
        [0.5, -0.5]
        """
        operator = as_operator(operator)
        operator.check(shape)
        size = int(np.prod(shape))
        columns = jax.jit(lambda basis: jax.lax.map(operator, basis))(jnp.eye(size).reshape(size, *shape))
        return cls(np.asarray(columns).reshape(size, -1).T, tuple(columns.shape[1:]))

    def check(self, shape):
        if int(np.prod(shape)) != self.matrix.matrix.shape[1]:
            raise Refused(
                f"the Matrix takes samples of {self.matrix.matrix.shape[1]} numbers, the samples of the model have "
                f"shape {tuple(shape)}"
            )

    def __call__(self, x):
        y = _apply(self.matrix.matrix, x.ravel())
        return y if self.shape is None else y.reshape(self.shape)

    def svd(self, like):
        vectors = self.matrix.vectors
        return SVD(
            self.matrix.values.astype(like.dtype),
            lambda x: _apply(vectors, x.ravel()),
            lambda c: _apply(vectors.T, c).reshape(like.shape),
        )


@pytree
class Separable(Operator):
    """Multiply every channel of an image (H, W, C) by one matrix for rows and one for columns: y = R x C^T.

    Attributes:
      rows: R, (h, H).
      columns: C, (w, W).

    Raises:
      Refused: anything but matrices; images of other sides.
    """

    rows: Any = converted(factor)
    columns: Any = converted(factor)

    @classmethod
    def bicubic(cls, factor: int, height: int, width: int) -> "Separable":
        """Return bicubic downsampling by `factor` of height x width pixels, smoothed as by `jax.image.resize`."""
        if height % factor or width % factor:
            raise Refused(f"bicubic downsampling needs sides that {factor} divides, got {height} x {width}")
        return cls(*(jax.image.resize(jnp.eye(n), (n // factor, n), "bicubic") for n in (height, width)))

    def check(self, shape):
        check_image(self, shape)
        sides = self.rows.matrix.shape[1], self.columns.matrix.shape[1]
        if tuple(shape[:2]) != sides:
            raise Refused(f"this operator is for images of {sides[0]} x {sides[1]} pixels, got {tuple(shape)}")

    def __call__(self, x):
        return _apply(self.columns.matrix, _apply(self.rows.matrix, x, 0), 1)

    def svd(self, like):
        r, c = self.rows, self.columns
        return SVD(
            (r.values[:, None] * c.values)[..., None].astype(like.dtype),
            lambda x: _apply(c.vectors, _apply(r.vectors, x, 0), 1),
            lambda a: _apply(c.vectors.T, _apply(r.vectors.T, a, 0), 1),
        )
