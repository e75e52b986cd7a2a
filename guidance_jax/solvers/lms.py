"""Linear multistep (Adams-Bashforth with unequal steps) of order 4, as k-diffusion's `lms`.

The slopes d = eps of the last four levels are interpolated by a polynomial in r = sigma / alpha, which is integrated
over the step exactly.
"""

import jax.numpy as jnp
import numpy as np

from guidance_jax.core import Solver, pytree

ORDER = 4
NODES, WEIGHTS = np.polynomial.legendre.leggauss(ORDER // 2)  # exact for the cubic


@pytree
class LMS(Solver):
    """Fourth order once four slopes are known, deterministic; one network call a step."""

    def init(self, x):
        return jnp.zeros((ORDER, *x.shape), x.dtype), jnp.zeros(ORDER, x.dtype), jnp.zeros((), jnp.int32)

    def step(self, pred, t, s, evaluate, state, key):
        slopes, ratios, known = state
        slopes = jnp.roll(slopes, 1, 0).at[0].set(pred.eps)
        ratios = jnp.roll(ratios, 1).at[0].set(t.ratio)
        known = jnp.minimum(known + 1, ORDER)

        half = (s.ratio - t.ratio) / 2
        r = t.ratio + half * (1 + jnp.asarray(NODES, ratios.dtype))
        used = jnp.arange(ORDER) < known
        others = used[:, None] & used[None, :] & ~np.eye(ORDER, dtype=bool)
        gap = jnp.where(others, ratios[:, None] - ratios[None, :], 1)
        factors = jnp.where(others[..., None], (r - ratios[None, :, None]) / gap[..., None], 1)  # (j, k, node)
        basis = jnp.where(used[:, None], jnp.prod(factors, 1), 0)
        coefficients = half * jnp.sum(basis * jnp.asarray(WEIGHTS, ratios.dtype), -1)
        y = pred.x0 + t.ratio * pred.eps + jnp.tensordot(coefficients, slopes, 1, precision="highest")
        return s.alpha * y, (slopes, ratios, known)
