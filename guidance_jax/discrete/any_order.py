"""Masks decided one by one in any order, the classifier asked about every candidate: FUDGE without an order.

    l ~ uniform over the masks,   x_l = v  with probability ~ p(v | x) p(y | x with v at l)^scale

Exact rates (Nisonoff et al. 2024, arXiv 2406.01572) leave a mask for v at p(v | x) p(y | x with v at l) / p(y | x).
Over v these add up to 1 at every mask, so the mask may be drawn first and V candidates asked about instead of L V.
Left to right this is FUDGE (Yang & Klein 2021, arXiv 2104.05218); of protein models, ProteinGuide (2505.04823).
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import (
    FAILED,
    Guide,
    Refused,
    add_logs,
    as_guide,
    converted,
    draw_token,
    need,
    pytree,
    static,
)
from guidance_jax.discrete.process import Absorbing
from guidance_jax.guidance.scales import strength, when
from guidance_jax.kernels.model_kernel import ModelKernel
from guidance_jax.kernels.reverse import Carry


@pytree
class AnyOrder(ModelKernel):
    """A kernel: each step decides one mask. One call of the model and `top` of the classifier.

    With the exact p(y | x_t) and scale 1 its samples are those of p(x | y).

    Attributes:
      model: a denoiser of masked tokens.
      classifier: a `Guide` of masked tokens, or f(x, level, cond) -> log p.
      scale: a number, `Window`, or a function of the level; 0 is the model.
      top: the candidates asked about, the most probable ones; None for all.
      masks: how many there are at the start, if fewer than the sequence is long; one more would stay a mask.

    Raises:
      Refused: another space; fewer steps than masks; a classifier that does not fit the model.
    """

    model: Any
    classifier: Any = converted(as_guide)
    scale: Any = 1.0
    top: int | None = static(default=None)
    masks: int | None = static(default=None)

    takes = Absorbing

    def check(self, levels, shape, cond):
        super().check(levels, shape, cond)
        need(self, self.classifier, Guide, "the classifier")
        wanted = shape[-1] if self.masks is None else self.masks
        if len(levels.t) <= wanted:
            raise Refused(f"AnyOrder decides one mask a step, {wanted} of them, got {len(levels.t) - 1} steps")
        self.classifier.check(levels, shape, cond)

    def __call__(self, carry, t, s, cond, key):
        model_key, site_key, token_key = jax.random.split(key, 3)
        pred, state = self.model(carry.x, t, cond, carry.model_state, model_key)
        free = self.space.free(carry.x)
        site = jax.random.categorical(site_key, jnp.where(free, 0.0, -jnp.inf))
        log_p = pred.log_weights[site]
        log_p, candidates = jax.lax.top_k(log_p, len(log_p) if self.top is None else self.top)

        def asked(v):
            return self.classifier.value(carry.x.at[site].set(v.astype(carry.x.dtype)), t, cond)

        w = strength(self.scale, t, cond, off=0.0)
        gains = when(w != 0, lambda: w * jax.vmap(asked)(candidates), lambda: jnp.zeros_like(log_p))
        chosen = draw_token(token_key, add_logs(log_p, gains))
        token = jnp.where(chosen == FAILED, FAILED, candidates[chosen]).astype(carry.x.dtype)
        x = jnp.where(jnp.any(free), carry.x.at[site].set(token), carry.x)
        return Carry(x, state, carry.solver_state)
