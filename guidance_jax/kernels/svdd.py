"""Soft value-based decoding (Li et al. 2024, SVDD, arXiv 2408.08252, Algorithm 1): choose among children, no gradient.

    x_s^1 .. x_s^M ~ p(x_s | x_t),   x_s <- x_s^m  with probability ~ exp(scale v(x_s^m))

The best v is log E[exp(scale r(x_0)) | x_s] / scale. With it, and with many children, samples follow
p(x) exp(scale r(x)). By default v is r of the clean estimate.
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import FAILED, Guide, Kernel, as_guide, converted, draw_token, need, pytree, static
from guidance_jax.guidance.scales import strength
from guidance_jax.kernels.reverse import Carry, Step


@pytree
class SVDD(Step, Kernel):
    """Draw `children` samples at every step and keep one by its value. scale 0 is `Reverse(model, solver)`.

    It is for images, tokens and text. Each step makes 1 + children calls of the model and `children` calls of the
    reward; with `noisy`, it makes one call of the model.

    Attributes:
      model: any denoiser, guided ones included.
      solver: a solver with a transition, `DDIM(1.0)`, `DDPM()` or `Ancestral()`.
      reward: a `Guide`, or f(x0, level, cond) -> scalar, of clean estimates; it need not be differentiable.
      scale: the factor of the reward, 1 / alpha in the paper: a number, `Window`, or a function of the level.
      children: the number of draws of x_s per step, two or more.
      noisy: whether the reward takes noisy samples, as a noisy classifier does.

    Raises:
      Refused: a solver without a transition of positive variance; a reward that does not take the model's samples.
    """

    model: Any
    solver: Any
    reward: Any = converted(as_guide)
    scale: Any = 1.0
    children: int = static(default=4)
    noisy: bool = static(default=False)

    weighs = True

    def init(self, x):
        return Carry(x, self.model.init(x), self.solver.init(x))

    def check(self, levels, shape, cond):
        need(self, self.reward, Guide, "the reward")
        super().check(levels, shape, cond)
        self.reward.check(levels, shape, cond)

    def __call__(self, carry, t, s, cond, key):
        model_key, children_key, value_key, choice_key = jax.random.split(key, 4)
        pred, state = self.model(carry.x, t, cond, carry.model_state, model_key)
        x = jax.vmap(self.solver.transition(pred, t, s).draw)(jax.random.split(children_key, self.children))

        def value(x):
            if self.noisy:
                return self.reward.value(x, s, cond)
            clean = jax.lax.cond(
                s.sigma > 0, lambda: self.model(x, s, cond, state, value_key)[0].x0.astype(x.dtype), lambda: x
            )
            return self.reward.value(clean, s, cond)

        values = strength(self.scale, t, cond, off=0.0) * jax.lax.map(value, x)
        chosen = draw_token(choice_key, values)
        failed = jnp.nan if jnp.issubdtype(x.dtype, jnp.floating) else FAILED
        return Carry(jnp.where(chosen < 0, failed, x[chosen]).astype(x.dtype), state, carry.solver_state)
