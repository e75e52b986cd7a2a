"""What a token model predicts, in the place of `Prediction`: log-probabilities, and how much guidance tilts each
jump."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import Level, add_logs, pytree, static


@pytree
class TokenPrediction:
    """The tokens, what each may become, and by how much guidance favours each. Token solvers read nothing else.

    Contrasts that only choose between tokens change `log_p` and leave the speed of jumps alone; `tilt` may change it.

    Attributes:
      x: (L,) tokens.
      log_p: (L, V), log p(x0_l = v | all other tokens of x_t), normalised over v: what a masked position is about to
        become; for the uniform process the token's own evidence is left out (which is what the UDLM loss fits), the
        process brings it back. A language model gives (V,), the next token alone.
      process: the space they are of.
      tilt: the logarithm of the factor by which guidance multiplies the rate of the jump x_l -> v; broadcasts to log_p.
    """

    x: Any
    log_p: Any
    process: Any = static()
    tilt: Any = 0.0

    @property
    def x0(self) -> Any:
        """The most probable clean tokens: what rewards of clean samples are asked about."""
        return self.process.estimate(self)

    def contrast(self, weak: "TokenPrediction", scale: Any, level: Level) -> "TokenPrediction":
        """log p proportional to (1 - scale) log p_weak + scale log p, normalised per position; tilts likewise.

        What is impossible under `self` stays so; what only `weak` thinks impossible is as it is under `self`.
        """
        allowed = self.log_p != -jnp.inf  # NaN is neither: it stays
        own = jnp.where(allowed, self.log_p, 0)
        other = jnp.where(weak.log_p != -jnp.inf, weak.log_p, own)
        log_p = jnp.where(allowed, other + scale * (own - other), -jnp.inf)
        tilt = contrast_tilts(self.tilt, weak.tilt, scale)
        return dataclasses.replace(self, log_p=jax.nn.log_softmax(log_p), tilt=tilt)

    def compose(self, others: "TokenPrediction", weights: Any, level: Level) -> "TokenPrediction":
        """log p proportional to log p + sum_k weights_k (log p_k - log p), normalised per position; tilts likewise.

        What is impossible here stays so, and so does what a condition of positive weight forbids.
        """
        column = weights.reshape(-1, *[1] * self.log_p.ndim)
        allowed, possible = self.log_p != -jnp.inf, others.log_p != -jnp.inf
        own = jnp.where(allowed, self.log_p, 0)
        gaps = jnp.where(allowed & possible, jnp.where(possible, others.log_p, 0) - own, 0)
        forbidden = ~allowed | jnp.any(~possible & (column > 0), 0)
        log_p = jnp.where(forbidden, -jnp.inf, own + jnp.sum(column * gaps, 0))
        same = others.tilt == self.tilt  # what cannot be decided yet has -inf in all of them
        tilt = self.tilt + jnp.tensordot(weights, jnp.where(same, 0, others.tilt - jnp.where(same, 0, self.tilt)), 1)
        return dataclasses.replace(self, log_p=jax.nn.log_softmax(log_p), tilt=tilt)

    @property
    def log_weights(self) -> Any:
        """log_p + tilt, (L, V): the odds of what each position becomes; impossible tokens stay so whatever the tilt."""
        return add_logs(self.log_p, self.tilt)

    def tilt_by(self, log_factor: Any) -> "TokenPrediction":
        """The prediction with the rate of every jump multiplied by exp(log_factor), (L, V)."""
        return dataclasses.replace(self, tilt=self.tilt + log_factor)


def contrast_tilts(strong: Any, weak: Any, scale: Any) -> Any:
    """weak + scale (strong - weak), and what both say where they are equal: -inf for what cannot be decided yet."""
    same = jnp.asarray(strong) == weak
    finite = jnp.where(same, 0, weak)
    return jnp.where(same, strong, finite + scale * (jnp.where(same, 0, strong) - finite))
