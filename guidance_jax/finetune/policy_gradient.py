"""Policy gradients of the reverse chain: DDPO (arXiv 2305.13301), Flow-GRPO (2505.05470); of tokens too (2502.01384).

    A = R(chain) - R(another chain),   R = scale r(x_0) - sum_t log p(x_s | x_t) / p_base(x_s | x_t)
    loss = -sg(A) sum_t log p(x_s | x_t)

Two chains a sample, each the baseline of the other (RLOO). The KL to the base makes p_base(x) exp(scale r(x)) the
optimum where chains forget where they began and steps are small; without (`kl` 0), as DDPO has it, the reward is
maximised. The last step of images and vectors is a point: it has no density and is not tuned.
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import pytree
from guidance_jax.finetune.chains import Rewarded


@pytree
class PolicyGradient(Rewarded):
    """Fields as in `Rewarded`; `base`: the model as it was; `kl`: the weight of the divergence from its chains, 1 or 0.

    The reward need not be differentiable, the samples may be tokens. On policy: one update a draw, where the clipped
    ratios of PPO are 1. 4 calls of the model and 2 of the base a step.
    """

    base: Any = None
    kl: Any = 1.0

    def __call__(self, params, key, x0, label):
        model, base = self.tune(params), self.model if self.base is None else self.base
        ends, paths = zip(*(self.run(model, k, x0, label) for k in jax.random.split(key)), strict=True)

        def log_p(model, path, end):
            later = jnp.concatenate([path[1:], end[None]])

            def step(inputs):
                x, new, t, s = inputs
                return self.transition(model, x, t, s, label, key).log_prob(new)

            return jnp.sum(jax.lax.map(step, (path, later, *self.steps)))

        own = [log_p(model, path, end) for path, end in zip(paths, ends, strict=True)]
        kept = [log_p(base, path, end) for path, end in zip(paths, ends, strict=True)]
        total = [self.value(x, label) - self.kl * (p - q) for x, p, q in zip(ends, own, kept, strict=True)]
        return -jax.lax.stop_gradient(total[0] - total[1]) * (own[0] - own[1]) / 2
