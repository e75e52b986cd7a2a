"""Decide the masks one by one in random order, with a classifier that scores every candidate token.

    l ~ uniform over the masks,   x_l = v  with probability ~ p(v | x) p(y | x with v at l)^scale

The exact rate from a mask to v is p(v | x) p(y | x with v at l) / p(y | x) (Nisonoff et al. 2024, arXiv 2406.01572).
Summed over v, these rates are 1 at every mask. So the mask can be drawn first, and the classifier scores V candidates
instead of L V. From left to right this is FUDGE (Yang & Klein 2021, arXiv 2104.05218). For protein models it is
ProteinGuide (2505.04823).
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
    """A kernel that decides one mask per step. One call of the model and `top` calls of the classifier per step.

    With the exact p(y | x_t) and scale 1 the samples have the distribution p(x | y).

    Attributes:
      model: a denoiser of masked tokens.
      classifier: a `Guide` of masked tokens, or f(x, level, cond) -> log p.
      scale: a number, `Window`, or a function of the level; 0 is the unguided model.
      top: the number of candidates, the most probable tokens; None for all tokens. Fewer candidates are cheaper and
        change the target: the model is then restricted to them at every step, as by top-k sampling.
      masks: the number of masks at the start; None for all L positions. There must be at least as many steps, because
        masks beyond the number of steps stay masks.

    Raises:
      Refused: a model of another space; fewer steps than masks; a classifier that does not fit the model.
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
            raise Refused(f"AnyOrder decides one mask per step and needs {wanted} steps, got {len(levels.t) - 1} steps")
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
