"""Base class and checks of operators of a measurement y = A x, with singular values or matrix-free."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import Refused, concrete, converted, function, pytree

CUT = 1e-4  # singular values below this share of the largest count as zero
STEPS = 100  # at most this many steps of conjugate gradients, where there are no singular values


class SVD(NamedTuple):
    """The singular values of A = U S V^T and its right singular vectors: A^T A = V s^2 V^T. U is not needed.

    Attributes:
      values: s, zero where nothing is measured; broadcasts against the coefficients.
      to: x -> V^T x, the coefficients, which may be complex.
      back: coefficients -> x.
    """

    values: Any
    to: Callable[[Any], Any]
    back: Callable[[Any], Any]

    @property
    def known(self) -> Any:
        """Where the singular values are above 1e-4 of the largest; the others count as zero."""
        return self.values > CUT * jnp.max(self.values)

    def divide(self, c: Any, by: Any) -> Any:
        """Return c / by where something is measured, else 0."""
        return jnp.where(self.known, c / jnp.where(self.known, by, 1), 0)


class Operator:
    """Base class of operators, `operator(x) -> y` of one sample.

    A subclass gives `__call__`, and sets `linear` to False if it is not linear. The adjoint of a linear operator is
    derived by JAX, and `pinv` and `solve` use conjugate gradients. A subclass that also gives `svd` makes both exact
    and can be used with `DDRM`.
    """

    @property
    def linear(self) -> bool:
        """Whether the operator is linear."""
        return True

    def __call__(self, x: Any) -> Any:
        raise NotImplementedError

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise `Refused` for samples of a shape that the operator does not take."""

    def adjoint(self, y: Any, like: Any) -> Any:
        """Return A^T y, with the shape and type of `like`: (A x).y = x.(A^T y)."""
        like = jax.ShapeDtypeStruct(jnp.shape(like), like.dtype)
        return jax.linear_transpose(self, like)(y.astype(jax.eval_shape(self, like).dtype))[0]

    def svd(self, like: Any) -> SVD:
        """Return the singular value decomposition for samples with the shape and type of `like`.

        Raises:
          Refused: an operator without a ready decomposition.
        """
        raise Refused(
            f"{type(self).__name__} has no known singular values; for a small operator write "
            "operators.Matrix.of(operator, shape)"
        )

    def has_svd(self, shape: tuple[int, ...]) -> bool:
        """Return whether `svd` works for samples of `shape`."""
        try:
            jax.eval_shape(lambda x: self.svd(x).values, jax.ShapeDtypeStruct(shape, jnp.float32))
        except Refused:
            return False
        return True

    def pinv(self, y: Any, like: Any) -> Any:
        """Return A^+ y, the x of least norm among all x that fit y best.

        It uses the singular values; those below 1e-4 of the largest count as zero. Without them, it uses at most 100
        steps of conjugate gradients.
        """
        back = self.adjoint(y, like)
        if not self.has_svd(jnp.shape(like)):
            return conjugate_gradient(lambda x: self.adjoint(self(x), like), back, STEPS)
        svd = self.svd(like)
        return svd.back(svd.divide(svd.to(back), svd.values**2)).astype(like.dtype)

    def solve(self, rhs: Any, weight: Any) -> Any:
        """Return (A^T A + weight I)^-1 rhs, `weight` above 0, by the singular values or by conjugate gradients."""
        if not self.has_svd(jnp.shape(rhs)):
            return conjugate_gradient(lambda x: self.adjoint(self(x), rhs) + weight * x, rhs, STEPS)
        svd = self.svd(rhs)
        return svd.back(svd.to(rhs) / (svd.values**2 + weight)).astype(rhs.dtype)

    def __matmul__(self, inner: Any) -> "Operator":
        """Return this operator applied after `inner`."""
        return Composed(self, as_operator(inner))


@pytree
class Composed(Operator):
    """Apply one operator after another: y = outer(inner(x)), written `outer @ inner`.

    Attributes:
      outer, inner: operators, linear or not.
    """

    outer: Any
    inner: Any

    @property
    def linear(self):
        return self.outer.linear and self.inner.linear

    def check(self, shape):
        self.inner.check(shape)
        self.outer.check(jax.eval_shape(self.inner, jax.ShapeDtypeStruct(shape, jnp.float32)).shape)

    def __call__(self, x):
        return self.outer(self.inner(x))


@pytree
class Linear(Operator):
    """Use any linear function of one sample as an operator.

    Attributes:
      f: the function, x -> y.
      own_adjoint: its adjoint, y -> x; None for `jax.linear_transpose` of `f`.
    """

    f: Any = converted(function)
    own_adjoint: Any = converted(function, default=None)

    def __call__(self, x):
        return self.f(x)

    def adjoint(self, y, like):
        return super().adjoint(y, like) if self.own_adjoint is None else self.own_adjoint(y)


def as_operator(operator: Any) -> Any:
    """Return an `Operator` unchanged and a function as `Linear(operator)`; `check_operator` refuses the rest later."""
    return Linear(operator) if callable(operator) and not isinstance(operator, Operator) else operator


def conjugate_gradient(apply: Callable, b: Any, steps: int) -> Any:
    """Solve the positive definite system apply(v) = b by at most `steps` steps; exact after as many as unknowns."""
    with jax.default_matmul_precision("highest"):
        found = jax.scipy.sparse.linalg.cg(apply, b, tol=1e-6, maxiter=steps)[0]
    return jnp.where(jnp.all(jnp.isfinite(b)), found, jnp.nan)  # `cg` returns zeros if b is not finite


def check_operator(owner: Any, operator: Any, shape: tuple[int, ...], linear: bool = False) -> None:
    """Raise `Refused`, for `owner`, unless `operator` is one for samples of `shape` and, if `linear`, is linear."""
    name = type(owner).__name__
    if not isinstance(operator, Operator):
        raise Refused(
            f"the operator of {name} must be an Operator or a function of one sample, got {type(operator).__name__}; "
            "write operators.Mask(mask)"
        )
    operator.check(shape)
    if linear and not is_linear(operator, shape):
        raise Refused(
            f"{name} takes a linear operator, got {type(operator).__name__}, which is not linear or has no adjoint; "
            "use DPS, DAPS or Reconstruction"
        )


def is_linear(operator: Operator, shape: tuple[int, ...]) -> bool:
    """Return whether `operator` has an adjoint for samples of `shape`: its own, or one that JAX derives."""
    try:
        jax.eval_shape(lambda x: operator.adjoint(operator(x), x), jax.ShapeDtypeStruct(shape, jnp.float32))
    except (NotImplementedError, AssertionError, TypeError):  # what JAX raises for a program that has no transpose
        return False
    return bool(operator.linear)


def check_measurement(owner: Any, y: Any, std: Any = 1.0) -> None:
    """Raise `Refused`, for `owner`, if a measurement `y` or its noise `std` cannot be used; traced values pass."""
    name = type(owner).__name__
    if concrete(std) and not np.all((np.asarray(std) > 0) & np.isfinite(np.asarray(std))):
        raise Refused(
            f"the noise of {name} must be positive and finite, got std={std}; for an exact measurement write 1e-3"
        )
    leaves = jax.tree.leaves(y)
    if any(jnp.issubdtype(jnp.result_type(leaf), jnp.complexfloating) for leaf in leaves):
        raise Refused(f"the measurement of {name} is complex; write jnp.stack([y.real, y.imag], -1)")
    bad = sum(int((~np.isfinite(np.asarray(leaf))).sum()) for leaf in leaves if concrete(leaf) and np.size(leaf))
    if bad:
        raise Refused(
            f"the measurement of {name} has {bad} numbers that are not finite; replace them by 0 and exclude them "
            "with operators.Mask(mask)"
        )


def check_one_noise(owner: Any, std: Any) -> None:
    """Raise `Refused`, for `owner`, unless the noise `std` is one number for all measurements."""
    if jnp.ndim(std):
        raise Refused(
            f"the noise of {type(owner).__name__} must be one number, got shape {jnp.shape(std)}; divide operator and "
            "measurement by it and write std=1.0"
        )


def check_adjoint(operator: Any, shape: tuple[int, ...], tolerance: float = 1e-4, seed: int = 0) -> None:
    """Check that an operator is linear and that its adjoint fits: (A x).y = x.(A^T y) for random x and y.

    Args:
      operator: an `Operator` or a function.
      shape: the shape of x.
      tolerance: the largest difference of both sides, relative to |A x| |y|.
      seed: the seed of x and y.

    Raises:
      Refused: an adjoint that does not belong to the operator, or an operator that is not linear.

    >>> check_adjoint(lambda x: x[1:] - x[:-1], (5,))
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
        raise Refused(
            f"the adjoint does not match: <A x, y> = {forth:.6g}, <x, A^T y> = {back:.6g}; correct the adjoint, or "
            "remove it"
        )


def check_pinv(operator: Any, shape: tuple[int, ...], tolerance: float = 1e-3, seed: int = 0) -> None:
    """Check two equations of Moore and Penrose for random x and y: A A^+ A x = A x, and A^+ A A^+ y = A^+ y.

    Args:
      operator: an `Operator` or a function.
      shape: the shape of x.
      tolerance: the largest relative difference of both sides.
      seed: the seed of x and y.

    Raises:
      Refused: an inverse that does not belong to the operator.

    >>> import guidance_jax as gj
    >>> check_pinv(gj.operators.Downsample(2), (4, 4, 1))
    """
    operator = as_operator(operator)
    x = jax.random.normal(jax.random.key(seed), shape)
    y = operator(x)
    again = operator(operator.pinv(y, x))
    off = float(jnp.linalg.norm(again - y) / jnp.maximum(jnp.linalg.norm(y), 1e-30))
    if off > tolerance:
        raise Refused(f"the inverse does not match: A A^+ A x misses A x by {off:.3g} of it; check `pinv` and `svd`")
    least = operator.pinv(jax.random.normal(jax.random.key(seed + 1), y.shape), x)
    off = float(jnp.linalg.norm(operator.pinv(operator(least), x) - least) / jnp.maximum(jnp.linalg.norm(least), 1e-30))
    if off > tolerance:
        raise Refused(
            f"the inverse is not of least norm: A^+ A A^+ y misses A^+ y by {off:.3g}; check `pinv` and `svd`"
        )


def residual_of(operator: Any, x0: Any, y: Any) -> Any:
    """Return y - A x0.

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
