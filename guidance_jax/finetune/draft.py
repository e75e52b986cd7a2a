"""Gradients of the reward through the sampler: DRaFT-K (Clark et al. 2024, arXiv 2309.17400), AlignProp (2310.03739),
DRAKES (2410.13643).

    loss = -scale r(x_0) + sum KL(p(x_s | x_t) || p_base(x_s | x_t)),   differentiated through the last K steps

Without the divergence the loss maximises r, and nothing holds the samples near the model. With it the optimum samples
p_base(x) exp(scale r(x)). This needs a gradient through all steps, small steps, and a chain that forgets its start.
Tokens are drawn by straight-through Gumbel-softmax (DRAKES): one-hot vectors in the forward pass, the gradient of the
softmax in the backward pass. That gradient is biased.
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import GaussianDiffusion, Refused, need, pytree, static
from guidance_jax.discrete.network import TokenModel
from guidance_jax.finetune.chains import Rewarded


@pytree
class DRaFT(Rewarded):
    """Tune a model by the gradient of the reward through the last steps of its sampler: a loss for `fit`.

    For tokens, the model and the reward take one-hot vectors (L, states); see `TAG`.

    Attributes:
      model, solver, reward, levels, scale: as in `Rewarded`.
      last: K, the number of last steps that are differentiated; all steps are AlignProp without truncation.
      remat: whether to compute the steps again in the backward pass. The memory then holds the samples of K levels and
        one call of the network instead of K.
      base: the model before tuning; the divergence of the steps from it is penalised. None for no divergence.
      temperature: the temperature of the softmax whose gradient the drawn tokens have.

    Raises:
      Refused: `last` below one or above the number of steps; a model of tokens that is not a `TokenModel`; what
        `Rewarded` refuses.
    """

    last: int = static(default=1)
    remat: bool = static(default=True)
    base: Any = None
    temperature: Any = 1.0

    def __post_init__(self):
        super().__post_init__()
        if self.tokens:
            for model in (self.model, self.model if self.base is None else self.base):
                need(self, model, TokenModel, "the model of tokens")

    @property
    def tokens(self) -> bool:
        """Whether samples are one-hot vectors."""
        return not isinstance(self.model.space, GaussianDiffusion)

    def transition(self, model, x, t, s, cond, key):
        if not self.tokens:
            return super().transition(model, x, t, s, cond, key)
        pred = model.read(model.logits(x, t, cond), jnp.argmax(x, -1), t)
        return self.solver.transition(pred, t, s)

    def draw(self, own, x, key):
        """Draw x_s from the transition `own`, differentiable."""
        if not self.tokens:
            return own.draw(key)
        noisy = own.log_q + jax.random.gumbel(key, own.log_q.shape)
        hard, soft = jax.nn.one_hot(jnp.argmax(noisy, -1), x.shape[-1]), jax.nn.softmax(noisy / self.temperature)
        decided = ~self.model.space.free(jnp.argmax(x, -1))[:, None]
        return jnp.where(decided, x, hard + soft - jax.lax.stop_gradient(soft))

    def step_with_divergence(self, model, x, inputs, label):
        """Return x_s, differentiable, and the divergence of its distribution from that of `base`, 0 without one."""
        t, s, key = inputs
        model_key, noise_key = jax.random.split(key)
        if self.base is not None and not self.tokens:  # the last step is a point, without a divergence: not tuned
            model = jax.tree.map(lambda a: jnp.where(s.sigma > 0, a, jax.lax.stop_gradient(a)), model)
        own = self.transition(model, x, t, s, label, model_key)
        kl = jnp.zeros(())
        if self.base is not None:
            kl = own.divergence(self.transition(self.base, x, t, s, label, model_key))
        return self.draw(own, x, noise_key), kl

    def __call__(self, params, key, x0, label):
        model, n = self.tune(params), len(self.levels.t) - 1
        if not 1 <= self.last <= n:
            raise Refused(f"DRaFT can differentiate through 1 to {n} steps, got last={self.last}")
        start_key, step_key = jax.random.split(key)
        inputs = (*self.steps, jax.random.split(step_key, n))

        def step(model, x, inputs):
            return self.step_with_divergence(model, x, inputs, label)

        def part(a, b):
            return jax.tree.map(lambda leaf: leaf[a:b], inputs)

        x, cut = self.start(start_key, x0), n - self.last
        x = jax.nn.one_hot(x, self.model.space.states) if self.tokens else x
        x, _ = jax.lax.scan(lambda x, i: step(jax.lax.stop_gradient(model), x, i), x, part(0, cut))
        tuned = jax.checkpoint(step) if self.remat else step
        x, kl = jax.lax.scan(lambda x, i: tuned(model, x, i), jax.lax.stop_gradient(x), part(cut, n))
        return jnp.sum(kl) - self.value(x, label)
