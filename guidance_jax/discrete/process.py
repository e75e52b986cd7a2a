"""How tokens are corrupted, and the reverse transitions that follow. One sequence `(L,)` of int32, one scalar level.

A token is kept with probability alpha(t) (`level.alpha`; on `RectifiedFlow()` that is the log-linear schedule 1 - t),
else masked (absorbing) or drawn afresh (uniform). Positions are corrupted independently, so the reverse process needs
only `log_p[l, v]` = log p(x0_l = v | the other tokens).

Sources: Austin et al. 2021 (D3PM, arXiv 2107.03006); Campbell et al. 2022 (rates, 2205.14987); Sahoo et al. 2024 (MDLM,
2406.07524); Schiff et al. 2024 (UDLM, 2412.10193, eq. 6 and 15).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import (
    FAILED,
    Categorical,
    Composable,
    Distribution,
    Refused,
    Space,
    add_logs,
    argmax_token,
    concrete,
    log,
)
from guidance_jax.discrete.prediction import TokenPrediction


@dataclass(frozen=True)
class Process(Space):
    """A space of sequences of tokens.

    Attributes:
      vocabulary: how many clean tokens there are, 0 to vocabulary - 1.

    Raises:
      Refused: fewer than two tokens.
    """

    vocabulary: int

    kind: ClassVar[str] = "tokens"
    solver: ClassVar[str] = "Ancestral()"

    def __post_init__(self):
        if self.vocabulary < 2:
            raise Refused(f"a vocabulary needs at least two tokens, got {self.vocabulary}")

    @property
    def states(self) -> int:
        """Return the number of values that a position can take, a mask included."""
        return self.vocabulary

    def check_tokens(self, tokens: Any, blank: int | None = None) -> None:
        """Raise `Refused` unless `tokens` (a host array) holds integers of the vocabulary, or `blank` if given."""
        values = np.asarray(tokens)
        if not np.issubdtype(values.dtype, np.integer):
            raise Refused(f"tokens must be integers, got {values.dtype}; write tokens.astype(int)")
        bad = (values < 0) | (values >= self.vocabulary)
        if blank is not None:
            bad &= values != blank
        if bad.any():
            raise Refused(f"tokens go from 0 to {self.vocabulary - 1}, got {values[bad].flat[0]}; check the encoding")

    def mark_foreign(self, x: Any) -> Any:
        """Return the tokens, with `FAILED` in place of integers that are no state of the process."""
        return jnp.where((x >= 0) & (x < self.states), x, FAILED).astype(x.dtype)

    def flat(self, x: Any, level: Any) -> TokenPrediction:
        """Return a prediction with equal probabilities for all tokens at every position."""
        log_p = jnp.full((len(x), self.vocabulary), -jnp.log(float(self.vocabulary)))
        return TokenPrediction(x, self.without_mask(log_p), self)

    def without_mask(self, log_p: Any) -> Any:
        """Return log_p (..., V) of clean tokens alone. It changes only if the mask is inside the vocabulary."""
        return log_p

    def leave_one_out(self, log_p: Any, x: Any, level: Any) -> Any:
        """Return log p(x0_l | x_t without l), (L, V), from log p(x0_l | x_t). For masks both are equal."""
        return log_p

    def estimate(self, pred: TokenPrediction) -> Any:
        """Return the most probable clean tokens, (L,)."""
        raise NotImplementedError

    def transition(self, pred: TokenPrediction, t: Any, s: Any) -> Distribution:
        """Return p(x_s | x_t) that a prediction implies."""
        raise NotImplementedError


@dataclass(frozen=True)
class Diffusion(Process, Composable):
    """A process that corrupts tokens. Subclasses define its transitions and rates. Fields as in `Process`."""

    kind: ClassVar[str] = "tokens under diffusion"

    def check_finished(self, levels):
        if concrete(levels.sigma) and levels.sigma[-1] != 0:
            raise Refused(
                f"the levels end at sigma = {float(levels.sigma[-1]):.3g}, where tokens are still corrupted; end at "
                "the clean level, as schedule.levels(steps) does"
            )

    def corrupt(self, key: Any, x0: Any, level: Any) -> Any:
        """Draw x_t ~ q(x_t | x0)."""
        raise NotImplementedError

    def forward(self, level: Any) -> Any:
        """Return q(x_t = k | x0 = v), (vocabulary, states)."""
        raise NotImplementedError

    def loss(self, log_p: Any, x0: Any, x: Any, level: Any, slope: Any) -> Any:
        """Return the continuous-time bound of one sequence in nats, at one level; `slope` is d alpha / dt there."""
        raise NotImplementedError


@dataclass(frozen=True)
class Absorbing(Diffusion):
    """Tokens become masks, and a mask stays until the model decides its token.

    Attributes:
      vocabulary: how many tokens there are, 0 to vocabulary - 1. They include the mask if `mask` is below `vocabulary`.
      mask: the number of the mask; None is `vocabulary`. Released models have it inside their vocabulary, for example
        `Absorbing(126464, mask=126336)`. Its probability is then 0, whatever the logits are.

    Raises:
      Refused: fewer than two tokens; a mask that is not 0 to `vocabulary`.
    """

    mask: Any = None

    kind: ClassVar[str] = "masked tokens"

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "mask", self.vocabulary if self.mask is None else self.mask)
        if not 0 <= self.mask <= self.vocabulary:
            raise Refused(
                f"the mask must be a number from 0 to the vocabulary ({self.vocabulary}), got mask={self.mask}"
            )

    @property
    def states(self) -> int:
        return max(self.vocabulary, self.mask + 1)

    def without_mask(self, log_p: Any) -> Any:
        """Return log_p (..., V), normalised, with probability 0 for the mask if it is inside the vocabulary."""
        if self.mask == self.vocabulary:
            return log_p
        return jax.nn.log_softmax(log_p.at[..., self.mask].set(-jnp.inf))

    def check_tokens(self, tokens: Any, blank: int | None = None) -> None:
        super().check_tokens(tokens, blank)
        if (np.asarray(tokens) == self.mask).any():
            raise Refused(
                f"the token {self.mask} is the mask, which a clean sequence cannot contain; check the encoding"
            )

    def mark_unfinished(self, x: Any) -> Any:
        return jnp.where(jnp.any(x == self.mask), FAILED, x).astype(x.dtype)

    def start(self, key, levels, shape):
        return jnp.full(shape, self.mask, jnp.int32)

    def corrupt(self, key: Any, x0: Any, level: Any) -> Any:
        """Draw x_t ~ q(x_t | x0)."""
        return jnp.where(jax.random.bernoulli(key, level.alpha, x0.shape), x0, self.mask)

    def forward(self, level: Any) -> Any:
        """Return q(x_t = k | x0 = v), (vocabulary, states)."""
        kept = level.alpha * jnp.eye(self.vocabulary, self.states)
        return kept.at[:, self.mask].add(1 - level.alpha)

    def free(self, x: Any) -> Any:
        """Return the positions that the model decides, (L,) booleans."""
        return x == self.mask

    def estimate(self, pred: Any) -> Any:
        return jnp.where(self.free(pred.x), argmax_token(pred.log_weights).astype(pred.x.dtype), pred.x)

    def transition(self, pred: TokenPrediction, t: Any, s: Any) -> Distribution:
        """Return q(x_s | x_t) of every position. Tilts multiply the odds that a mask is decided.

        Without a tilt, a mask is decided with probability (alpha_s - alpha_t) / (1 - alpha_t).
        """
        stay = (1 - s.alpha) / (1 - t.alpha)
        go = log(1 - stay) + pred.log_weights
        go = jnp.pad(go, ((0, 0), (0, self.states - self.vocabulary)), constant_values=-jnp.inf)
        masked = jax.nn.log_softmax(go.at[:, self.mask].set(log(stay)))
        given = log(jax.nn.one_hot(pred.x, self.states))
        return Categorical(jnp.where(self.free(pred.x)[:, None], masked, given))

    def log_rates(self, x: Any, log_p: Any, level: Any) -> Any:
        """Return the log rate of every jump, (L, V), on the clock of `elapsed`; -inf for impossible jumps."""
        return jnp.where(self.free(x)[:, None], log_p, -jnp.inf)

    def elapsed(self, t: Any, s: Any) -> Any:
        """Return the time between two levels, log((1 - alpha_t) / (1 - alpha_s)), on which these rates are constant."""
        return -log((1 - s.alpha) / (1 - t.alpha))

    def loss(self, log_p: Any, x0: Any, x: Any, level: Any, slope: Any) -> Any:
        """Return MDLM's continuous-time bound in nats: -alpha' / (1 - alpha) times the cross-entropy of the masks."""
        own = jnp.take_along_axis(log_p, x0[:, None], 1)[:, 0]
        return slope / (1 - level.alpha) * jnp.sum(jnp.where(self.free(x), own, 0))


@dataclass(frozen=True)
class Uniform(Diffusion):
    """Tokens are replaced by uniformly drawn ones. Sampling can replace a token more than once and so correct mistakes.

    Fields as in `Process`.
    """

    kind: ClassVar[str] = "tokens under uniform diffusion"

    def start(self, key, levels, shape):
        return jax.random.randint(key, shape, 0, self.vocabulary, jnp.int32)

    def corrupt(self, key: Any, x0: Any, level: Any) -> Any:
        """Draw x_t ~ q(x_t | x0)."""
        keep_key, token_key = jax.random.split(key)
        kept = jax.random.bernoulli(keep_key, level.alpha, x0.shape)
        return jnp.where(kept, x0, jax.random.randint(token_key, x0.shape, 0, self.vocabulary, x0.dtype))

    def forward(self, level: Any) -> Any:
        """Return q(x_t = k | x0 = v), (vocabulary, states)."""
        return level.alpha * jnp.eye(self.vocabulary) + (1 - level.alpha) / self.vocabulary

    def leave_one_out(self, log_p: Any, x: Any, level: Any) -> Any:
        """Return log p(x0_l | x_t without l), (L, V), from log p(x0_l | x_t) by Bayes' rule (arXiv 2605.22765, eq. 13).

        The evidence of token l itself, q(x_l | v) = alpha [v = x_l] + (1 - alpha) / V, is divided out. So log p of the
        token x_l falls by log(1 + V alpha / (1 - alpha)) before the normalisation.
        """
        return jax.nn.log_softmax(log_p - self.evidence(x, level))

    def evidence(self, x: Any, level: Any) -> Any:
        """Return log q(x_l | x0_l = v) plus a constant, (L, V): log(1 + V alpha / (1 - alpha)) at x_l, 0 elsewhere."""
        odds = self.vocabulary * level.alpha / jnp.maximum(1 - level.alpha, 1e-7)
        return jax.nn.one_hot(x, self.vocabulary) * jnp.log1p(odds)

    def posterior(self, pred: TokenPrediction, level: Any) -> Any:
        """Return log p(x0_l | x_t), (L, V), tilted and normalised. It inverts `leave_one_out`."""
        return jax.nn.log_softmax(add_logs(pred.log_weights, self.evidence(pred.x, level)))

    def estimate(self, pred: Any) -> Any:
        return argmax_token(pred.log_weights).astype(pred.x.dtype)

    def transition(self, pred: TokenPrediction, t: Any, s: Any) -> Distribution:
        """Return q(x_s | x_t) of every position: p(x_s = v | the others) q(x_t | x_s = v), tilted."""
        ahead = jnp.logaddexp(log(s.alpha) + pred.log_p, log((1 - s.alpha) / self.vocabulary))
        kept = t.alpha / s.alpha
        back = log(kept * jax.nn.one_hot(pred.x, self.vocabulary) + (1 - kept) / self.vocabulary)
        return Categorical(jax.nn.log_softmax(add_logs(ahead + back, pred.tilt)))

    def log_rates(self, x: Any, log_p: Any, level: Any) -> Any:
        """Return the log rate of every jump, (L, V), on the clock of `elapsed`: the log of p_t(x with v) / p_t(x) / V.

        It is -inf where v is the present token.
        """
        here = jnp.logaddexp(log(level.alpha) + log_p, log((1 - level.alpha) / self.vocabulary))
        own = jnp.take_along_axis(here, x[:, None], 1)
        stays = jax.nn.one_hot(x, self.vocabulary, dtype=bool)
        return jnp.where(stays, -jnp.inf, here - own - jnp.log(self.vocabulary))

    def elapsed(self, t: Any, s: Any) -> Any:
        """Return the time between two levels on which a token is replaced at rate 1: log(alpha_s / alpha_t)."""
        return jnp.log(s.alpha / t.alpha)

    def loss(self, log_p: Any, x0: Any, x: Any, level: Any, slope: Any) -> Any:
        """Return UDLM's continuous-time bound in nats of one sequence (eq. 15 there)."""
        size, alpha = self.vocabulary, level.alpha
        true = size * alpha * jax.nn.one_hot(x0, size) + 1 - alpha
        guess = size * alpha * jnp.exp(log_p) + 1 - alpha
        at = x[:, None]
        true_own, guess_own = jnp.take_along_axis(true, at, 1), jnp.take_along_axis(guess, at, 1)
        terms = true / true_own * (jnp.log(guess_own) + jnp.log(true) - jnp.log(guess) - jnp.log(true_own))
        each = size / true_own[:, 0] - size / guess_own[:, 0] - jnp.sum(terms, 1)
        return slope / (size * alpha) * jnp.sum(each)
