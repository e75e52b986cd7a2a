"""Entropy-bounded decoding of uniform diffusion, as DiffusionGemma decodes (transformers, `EntropyBoundSampler`).

    every position draws v_l ~ p(x0_l | x_t)^(1/T);  positions of least entropy keep theirs, the others become noise

Positions are accepted from the least entropy H on while the sum of the accepted H, less the largest, is at most the
bound. That sum limits how much the accepted tokens can depend on each other (Ben-Hamu et al. 2025, arXiv 2505.24857).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import FAILED, Refused, argmax_token, concrete, converted, draw_token, function, pytree
from guidance_jax.discrete import orders
from guidance_jax.discrete.ancestral import TokenSolver
from guidance_jax.discrete.process import Uniform


@pytree
class EntropyBound(TokenSolver):
    """Accept the positions of least entropy at every step, and fill all others with noise. One network call per step.

    No token is final: what is accepted is chosen anew at every step. The last step returns the most probable token of
    every position, so samples are the model's most probable answers rather than draws from it.

    Attributes:
      temperature: T, a positive number or a function of the level; None is 1. Entropies are those of the tempered
        probabilities.
      top_k, top_p: as in `Ancestral`.
      bound: nats; the position of least entropy is accepted even at 0.
      stop: nats. A sample is finished, and changes no more, once its most probable tokens are those of the step before
        and its mean entropy is below `stop`. None to use every step.

    Raises:
      Refused: a temperature or top_p that is not positive, a top_k below 1, a negative bound; masks or text; particles,
        since a step has no density.

    >>> import guidance_jax as gj
    >>> model = gj.TokenNetwork(
    ...     jnp.eye(3), lambda w, x, t, cond: 5 * w, gj.Uniform(3), batched=False, given="all"
    ... )
    >>> kernel = gj.Reverse(model, gj.discrete.EntropyBound(bound=0.1))
    >>> gj.generate(gj.keys(0, 2), kernel, gj.RectifiedFlow().levels(4), (3,)).tolist()
    [[0, 1, 2], [0, 1, 2]]
    """

    temperature: Any = converted(function, default=None)
    top_k: Any = None
    top_p: Any = None
    bound: Any = 0.1
    stop: Any = None

    takes = Uniform

    def __post_init__(self):
        super().__post_init__()
        if concrete(self.bound) and not self.bound >= 0:
            raise Refused(
                f"the bound of EntropyBound must not be negative, got {self.bound}; the published value is 0.1"
            )

    def init(self, x):
        return jnp.full(x.shape, -1), jnp.asarray(False)  # the most probable tokens of the last step; whether finished

    def step(self, pred, t, s, evaluate, state, key):
        draw_key, noise_key = jax.random.split(key)
        (before, finished), size = state, pred.process.vocabulary
        own = dataclasses.replace(self, temperature=self.temperature(t)) if callable(self.temperature) else self
        log_p = own.truncate(dataclasses.replace(pred, log_p=pred.process.posterior(pred, t))).log_p
        drawn, likely = draw_token(draw_key, log_p).astype(pred.x.dtype), argmax_token(log_p).astype(pred.x.dtype)
        entropy = -orders.entropy(log_p, drawn, draw_key)
        noise = jax.random.randint(noise_key, pred.x.shape, 0, size, pred.x.dtype)
        accepted = within_bound(entropy, self.bound, jnp.argsort(entropy))
        x = jnp.where(accepted | (drawn == FAILED), drawn, noise)
        if self.stop is not None:
            likely = jnp.where(finished, before, likely)
            finished |= jnp.all(likely == before) & (jnp.mean(entropy) < self.stop)
            x = jnp.where(finished, likely, x)
        return jnp.where(s.sigma == 0, likely, x), (likely, finished)


def within_bound(entropy: Any, bound: Any, ranked: Any) -> Any:
    """Return which positions are accepted, (L,): in the order `ranked`, while the sum less the largest is in `bound`.

    >>> entropy = jnp.array([0.3, 0.0, 0.1, 2.0])
    >>> within_bound(entropy, 0.1, jnp.argsort(entropy)).tolist()
    [True, True, True, False]
    """
    first = entropy[ranked]
    return (jnp.cumsum(first) - jax.lax.cummax(first) <= bound)[jnp.argsort(ranked)]
