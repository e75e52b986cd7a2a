"""Adjoint matching (Domingo-Enrich et al. 2025, arXiv 2409.08861): a regression towards the exact tilt.

    a_0 = -scale grad r(x_0),   a_t = (d mean_base(x_t) / d x_t)^T a_s      the lean adjoint, backwards along a chain
    sum_t | (mean(x_t) - mean_base(x_t)) / std + std a_s |^2

The paper writes it for SDEs; here it is for the transitions N(mean, std^2) of a solver. The chain must forget its start
("memoryless"): those of DDPM() and DDIM(1.0) do. With many small steps the fixed point samples
p_base(x) exp(scale r(x)).
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import pytree
from guidance_jax.finetune.chains import Rewarded


@pytree
class AdjointMatching(Rewarded):
    """Tune a model to p_base(x) exp(scale r(x)) by a regression on the adjoints of its own chains: a loss for `fit`.

    The reward has to be differentiable. Each step costs 2 calls of the model, one of the base and one pull-back of it.

    Attributes:
      model, solver, reward, levels, scale: as in `Rewarded`.
      base: the model before tuning, whose samples are to be tilted; None for `model`.
    """

    base: Any = None

    def __call__(self, params, key, x0, label):
        model, base = self.tune(params), self.model if self.base is None else self.base
        x, path = self.run(model, key, x0, label)
        t, s = self.steps

        def back(a, inputs):
            x, t, s = inputs
            kept, pull = jax.vjp(lambda x: self.transition(base, x, t, s, label, key).mean, x)
            return pull(a)[0], (a, kept)

        a = -jax.grad(self.value)(x, label)
        _, (adjoint, kept) = jax.lax.scan(back, a, (path, t, s), reverse=True)

        def residual(x, a, kept, t, s):
            own = self.transition(model, x, t, s, label, key)
            std = jnp.broadcast_to(jax.lax.stop_gradient(own.std), jnp.shape(x))
            counts = (std > 0) & ~jnp.asarray(own.clean)
            std = jnp.where(counts, std, 1)
            return jnp.sum(jnp.where(counts, (own.mean - kept) / std + std * a, 0) ** 2)

        path, adjoint, kept = jax.lax.stop_gradient((path, adjoint, kept))
        return jnp.sum(jax.lax.map(lambda i: residual(*i), (path, adjoint, kept, t, s)))
