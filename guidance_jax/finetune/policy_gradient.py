"""Policy gradients of the reverse chain: DDPO (arXiv 2305.13301), Flow-GRPO (2505.05470); for tokens too (2502.01384).

    A = R(chain) - R(another chain),   R = scale r(x_0) - sum_t log p(x_s | x_t) / p_base(x_s | x_t)
    loss = -sg(A) sum_t log p(x_s | x_t)

Two chains are drawn per sample; each is the baseline of the other (RLOO). With the KL to the base, the optimum is
p_base(x) exp(scale r(x)), if chains forget their start and steps are small. Without it (`kl` 0), as in DDPO, the reward
is maximised. The last step of images and vectors is a point: it has no density and is not tuned.
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import pytree
from guidance_jax.finetune.chains import Rewarded


@pytree
class PolicyGradient(Rewarded):
    """Tune a model by policy gradients of its reverse chain: a loss for `fit`.

    The reward need not be differentiable, and samples may be tokens. Each draw is used for one update (on policy),
    where the clipped ratios of PPO are 1. Each step costs 4 calls of the model and 2 of the base.

    Attributes:
      model, solver, reward, levels, scale: as in `Rewarded`.
      base: the model before tuning; None for `model`.
      kl: the weight of the divergence from the chains of the base: 1 for the tilt, 0 to maximise the reward.
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
