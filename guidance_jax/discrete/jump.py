"""One token at a time: the distribution of a single jump, and a solver of the uniform process made of it.

    P(no jump) = exp(-dt sum R),   else position and token together with probability R(x -> x') / sum R

This is the first-order step of the reverse jump process (Campbell et al. 2022, arXiv 2205.14987, section 3), on the
clock of `TauLeap`. In `TauLeap` all positions jump independently; here at most one token changes per step.
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import FAILED, Distribution, Stochastic, draw_token, log, pytree
from guidance_jax.discrete.ancestral import TokenSolver, log_rates
from guidance_jax.discrete.process import Uniform


@pytree
class Jump(Distribution):
    """The distribution of a sequence after a step in which at most one position changes.

    Attributes:
      log_q: (L, V), the log-probability of each jump, position and token together.
      log_stay: the log-probability of no change; -inf where a jump must happen.
      x: (L,), the sequence before the step.
    """

    log_q: Any
    log_stay: Any
    x: Any

    def draw(self, key):
        drawn = draw_token(key, jnp.append(self.log_q.ravel(), self.log_stay))
        site, token = jnp.divmod(jnp.clip(drawn, 0, self.log_q.size - 1), self.log_q.shape[1])
        moved = jnp.where(drawn < self.log_q.size, self.x.at[site].set(token.astype(self.x.dtype)), self.x)
        return jnp.where(drawn == FAILED, FAILED, moved)

    def log_prob(self, x):
        changed = x != self.x
        site = jnp.argmax(changed)
        token = jnp.minimum(x[site], self.log_q.shape[1] - 1)
        found = jnp.where(jnp.any(changed), self.log_q[site, token], self.log_stay)
        return jnp.where(jnp.sum(changed) > 1, -jnp.inf, found)


def log_jump(rates: Any) -> Any:
    """Return log R(x -> x') - log sum R, (L, V); uniform where nothing can jump."""
    return jax.nn.log_softmax(jnp.where(jnp.all(rates == -jnp.inf), 0, rates).ravel()).reshape(rates.shape)


@pytree
class SingleJump(TokenSolver, Stochastic):
    """Change at most one token per step of the uniform process. One network call per step.

    The samples are exact in the limit of small steps, guidance included. This is slower than `TauLeap`. Use it in
    `Corrected`, because weights of tokens that change together have heavy tails.

    Attributes:
      temperature, top_k, top_p: as in `Ancestral`.

    Raises:
      Refused: a temperature or `top_p` that is not positive; a `top_k` below 1; a model of masks (use
        `FirstHitting`) or text.
    """

    temperature: Any = None
    top_k: Any = None
    top_p: Any = None

    takes = Uniform

    def transition(self, pred, t, s):
        rates = log_rates(self.truncate(pred), t)
        total = jnp.sum(jnp.exp(rates)) * pred.process.elapsed(t, s)
        return Jump(log(-jnp.expm1(-total)) + log_jump(rates), -total, pred.x)
