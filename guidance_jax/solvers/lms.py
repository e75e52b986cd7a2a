"""Linear multistep (Adams-Bashforth with unequal steps) of order 4, as k-diffusion's `lms`.

A polynomial in r = sigma / alpha interpolates the slopes d = eps of the last four levels. It is integrated over the
step exactly.
"""

import jax.numpy as jnp
import numpy as np

from guidance_jax.core import Solver, pytree

ORDER = 4
NODES, WEIGHTS = np.polynomial.legendre.leggauss(ORDER // 2)  # exact for the cubic


@pytree
class LMS(Solver):
    """Deterministic solver of fourth order once four slopes are known. One network call per step."""

    deterministic = True

    def init(self, x):
        return jnp.zeros((ORDER, *x.shape), x.dtype), jnp.zeros(ORDER, x.dtype), jnp.zeros((), jnp.int32)

    def step(self, pred, t, s, evaluate, state, key):
        slopes, ratios, known = state
        signal = t.alpha > 0  # without signal the ratio is infinite: that level gets an Euler step and is not stored
        here = jnp.where(signal, t.ratio, 0)
        slopes = jnp.roll(slopes, 1, 0).at[0].set(pred.eps)
        ratios = jnp.roll(ratios, 1).at[0].set(here)
        known = jnp.where(signal, jnp.minimum(known + 1, ORDER), 0)

        half = (s.ratio - here) / 2
        r = here + half * (1 + jnp.asarray(NODES, ratios.dtype))
        used = jnp.arange(ORDER) < known
        others = used[:, None] & used[None, :] & ~np.eye(ORDER, dtype=bool)
        gap = jnp.where(others, ratios[:, None] - ratios[None, :], 1)
        factors = jnp.where(
            others[..., None], (r[None, None] - ratios[None, :, None]) / gap[..., None], 1
        )  # (j, k, node)
        basis = jnp.where(used[:, None], jnp.prod(factors, 1), 0)
        coefficients = half * jnp.matmul(basis, jnp.asarray(WEIGHTS, ratios.dtype), precision="highest")
        moved = here * pred.eps + jnp.tensordot(coefficients, slopes, 1, precision="highest")
        return s.alpha * (pred.x0 + jnp.where(signal, moved, s.ratio * pred.eps)), (slopes, ratios, known)
