"""The prediction of token models: log-probabilities, and a factor by which guidance changes the rate of each jump."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import Level, add_logs, pytree, static


@pytree
class TokenPrediction:
    """The prediction of a token model, in place of `Prediction`. Token solvers read nothing else.

    L is the length of the sequence and V the size of the vocabulary. Contrasts between tokens change only `log_p`,
    which leaves the speed of jumps unchanged. `tilt` may change that speed.

    Attributes:
      x: (L,) tokens.
      log_p: (L, V), log p(x0_l = v | all other tokens of x_t), normalised over v. At a mask this is the distribution of
        the token that replaces it. For the uniform process it leaves out the evidence of token l itself, as the UDLM
        loss fits it, and the process adds that evidence. A language model gives (V,), for the next token alone.
      process: the space of the tokens.
      tilt: the logarithm of the factor by which guidance multiplies the rate of the jump x_l -> v. It broadcasts to
        log_p.
    """

    x: Any
    log_p: Any
    process: Any = static()
    tilt: Any = 0.0

    @property
    def x0(self) -> Any:
        """Return the most probable clean tokens, on which rewards of clean samples are evaluated."""
        return self.process.estimate(self)

    def contrast(self, weak: "TokenPrediction", scale: Any, level: Level) -> "TokenPrediction":
        """Return log p proportional to (1 - scale) log p_weak + scale log p, normalised per position; tilts likewise.

        Tokens that are impossible under `self` stay impossible. Tokens that are impossible only under `weak` keep the
        log p of `self` before the normalisation.
        """
        allowed = self.log_p != -jnp.inf  # NaN is not -inf, so it stays
        own = jnp.where(allowed, self.log_p, 0)
        other = jnp.where(weak.log_p != -jnp.inf, weak.log_p, own)
        log_p = jnp.where(allowed, other + scale * (own - other), -jnp.inf)
        tilt = contrast_tilts(self.tilt, weak.tilt, scale)
        return dataclasses.replace(self, log_p=jax.nn.log_softmax(log_p), tilt=tilt)

    def compose(self, others: "TokenPrediction", weights: Any, level: Level) -> "TokenPrediction":
        """Return log p proportional to log p + sum_k weights_k (log p_k - log p), normalised; tilts likewise.

        Tokens that are impossible under `self`, or under a prediction of positive weight, are impossible.
        """
        column = weights.reshape(-1, *[1] * self.log_p.ndim)
        allowed, possible = self.log_p != -jnp.inf, others.log_p != -jnp.inf
        own = jnp.where(allowed, self.log_p, 0)
        gaps = jnp.where(allowed & possible, jnp.where(possible, others.log_p, 0) - own, 0)
        forbidden = ~allowed | jnp.any(~possible & (column > 0), 0)
        log_p = jnp.where(forbidden, -jnp.inf, own + jnp.sum(column * gaps, 0))
        same = others.tilt == self.tilt  # positions that cannot be decided yet have -inf in all of them
        tilt = self.tilt + jnp.tensordot(weights, jnp.where(same, 0, others.tilt - jnp.where(same, 0, self.tilt)), 1)
        return dataclasses.replace(self, log_p=jax.nn.log_softmax(log_p), tilt=tilt)

    @property
    def log_weights(self) -> Any:
        """Return log_p + tilt, (L, V), unnormalised log-probabilities. Impossible tokens stay so for every tilt."""
        return add_logs(self.log_p, self.tilt)

    def tilt_by(self, log_factor: Any) -> "TokenPrediction":
        """Return the prediction with the rate of every jump multiplied by exp(log_factor), (L, V)."""
        return dataclasses.replace(self, tilt=self.tilt + log_factor)


def contrast_tilts(strong: Any, weak: Any, scale: Any) -> Any:
    """Return weak + scale (strong - weak). Equal entries are kept, such as -inf where no token can be decided yet."""
    same = jnp.asarray(strong) == weak
    finite = jnp.where(same, 0, weak)
    return jnp.where(same, strong, finite + scale * (jnp.where(same, 0, strong) - finite))
