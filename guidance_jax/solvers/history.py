"""The memory of multistep solvers in lambda = log(alpha / sigma): clean estimates and their levels."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from guidance_jax.core import Level


class History(NamedTuple):
    """The last clean estimates, newest first.

    Attributes:
      estimates: the estimates, (size, *event).
      lambdas: log(alpha / sigma) of their levels, (size,).
      known: the number of estimates so far. A level without signal, whose lambda is -inf, does not count.
    """

    estimates: Any
    lambdas: Any
    known: Any

    @staticmethod
    def empty(x: Any, size: int) -> "History":
        """Return a history without estimates, for samples like `x`."""
        return History(jnp.zeros((size, *x.shape), x.dtype), jnp.zeros(size, x.dtype), jnp.zeros((), jnp.int32))

    def add(self, x0: Any, level: Level) -> "History":
        """Return the history with the estimate `x0` at `level` in front."""
        signal = level.alpha > 0
        return History(
            jnp.roll(self.estimates, 1, 0).at[0].set(x0),
            jnp.roll(self.lambdas, 1).at[0].set(jnp.where(signal, log_ratio(level), 0)),
            jnp.where(signal, jnp.minimum(self.known + 1, len(self.lambdas)), 0),
        )


def log_ratio(level: Level) -> Any:
    """Return log(alpha / sigma), and 0 where it is not finite."""
    inside = (level.alpha > 0) & (level.sigma > 0)
    return jnp.where(inside, jnp.log(jnp.where(inside, level.alpha, 1)) - jnp.log(jnp.where(inside, level.sigma, 1)), 0)


def safe(a: Any) -> Any:
    """Return `a`, and 1 where it is 0, as the denominator of quotients that are not used there."""
    return jnp.where(a == 0, 1, a)
