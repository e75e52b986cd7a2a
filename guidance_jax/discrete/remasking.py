"""Remasking: masked models may take tokens back (ReMDM, Wang et al. 2025, arXiv 2503.00307, eq. 6).

    decided token:  stays with probability 1 - sg, becomes a mask with sg
    mask:           becomes v with p(v) (alpha_s - (1 - sg) alpha_t) / (1 - alpha_t), else stays a mask

for any sg from 0 to min(1, (1 - alpha_s) / alpha_t). The share of decided tokens is alpha_s for every sg. So tokens
that were drawn in parallel, independently of each other, can be drawn again.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import FAILED, Categorical, Refused, Stochastic, concrete, log, pytree, static
from guidance_jax.discrete.ancestral import TokenSolver
from guidance_jax.discrete.process import Absorbing


def cap(eta: Any, largest: Any, alpha_t: Any, alpha_s: Any) -> Any:
    """Return min(eta, largest), ReMDM-cap: `eta` is the strength, `largest` the largest sg that keeps the marginals.

    `alpha_t` and `alpha_s` are not used.
    """
    return jnp.minimum(eta, largest)


def rescale(eta: Any, largest: Any, alpha_t: Any, alpha_s: Any) -> Any:
    """Return eta times largest, ReMDM-rescale. `eta`, `largest`, `alpha_t` and `alpha_s` as in `cap`."""
    return eta * largest


def forward_backward(eta: Any, largest: Any, alpha_t: Any, alpha_s: Any) -> Any:
    """Return eta (alpha_s - alpha_t) / alpha_t, at most `largest`: forward-backward (arXiv 2205.14987) at eta 1."""
    return jnp.minimum(eta * (alpha_s - alpha_t) / jnp.maximum(alpha_t, 1e-12), largest)


@pytree
class Remasking(TokenSolver, Stochastic):
    """Sample as `Ancestral` does, and also turn decided tokens into masks again. One network call per step.

    With eta 0 it is `Ancestral`. On a joint of three tokens its error is larger, and falls with the number of steps.
    Given tokens are remasked too: fix them with `Infill`. Tilts of guidance multiply the odds that a mask is decided.

    Attributes:
      temperature, top_k, top_p: as in `Ancestral`.
      eta: the strength of the remasking, from 0 to 1.
      amount: computes sg from eta: `cap`, `rescale` or `forward_backward` of `discrete.remasking`.
      confident: distribute sg over the decided tokens by softmax(-p), p the probability a token had when it was
        decided. Improbable tokens are then remasked more (ReMDM-conf), the share of decided tokens is approximate, and
        particles cannot weigh a step.

    Raises:
      Refused: what `Ancestral` refuses; an eta outside 0 to 1; a process without masks; `confident` with particles.

    >>> import guidance_jax as gj
    >>> gj.discrete.Remasking(eta=0.1).eta
    0.1
    """

    temperature: Any = None
    top_k: Any = None
    top_p: Any = None
    eta: Any = 0.1
    amount: Callable = static(default=cap)
    confident: bool = static(default=False)

    takes = Absorbing

    def __post_init__(self):
        super().__post_init__()
        if concrete(self.eta) and not 0 <= self.eta <= 1:
            raise Refused(f"eta of Remasking must be from 0 to 1, got {self.eta}; write eta=0.1")

    def init(self, x):
        return jnp.ones(x.shape)  # the probability that a token had when it was decided; 1 for given tokens

    def odds(self, pred: Any, t: Any, s: Any, confidence: Any) -> Any:
        """Return log p(x_s | x_t) of every position, (L, states)."""
        process = pred.process
        free = process.free(pred.x)
        largest = jnp.minimum(1.0, (1 - s.alpha) / jnp.maximum(t.alpha, 1e-12))
        again = self.amount(self.eta, largest, t.alpha, s.alpha)
        each = mean = jnp.broadcast_to(again, free.shape)
        if self.confident:
            share = jax.nn.softmax(jnp.where(free, -jnp.inf, -confidence))
            each = again * jnp.where(jnp.all(free), 0, share)
            mean = jnp.sum(each) / jnp.maximum(jnp.sum(~free), 1)
        # the probability to decide a mask that keeps the expected share of decided tokens
        leave = (s.alpha - (1 - mean) * t.alpha) / jnp.maximum(1 - t.alpha, 1e-12)
        leave = jnp.broadcast_to(leave, free.shape)[:, None]
        go = log(leave) + self.truncate(pred).log_weights
        go = jnp.pad(go, ((0, 0), (0, process.states - process.vocabulary)), constant_values=-jnp.inf)
        masked = jax.nn.log_softmax(go.at[:, process.mask].set(log(1 - leave[:, 0])))
        decided = log((1 - each)[:, None] * jax.nn.one_hot(pred.x, process.states)).at[:, process.mask].set(log(each))
        return jnp.where(free[:, None], masked, decided)

    def transition(self, pred, t, s):
        if self.confident:
            raise Refused("particle methods need a transition that depends on x alone; write confident=False")
        return Categorical(self.odds(pred, t, s, None))

    def step(self, pred, t, s, evaluate, state, key):
        x = Categorical(self.odds(pred, t, s, state)).draw(key)
        free = pred.process.free(pred.x)
        log_p = jax.nn.log_softmax(self.truncate(pred).log_weights)
        own = jnp.exp(jnp.take_along_axis(log_p, jnp.clip(x, 0, log_p.shape[1] - 1)[:, None], 1)[:, 0])
        confidence = jnp.where(free & (x != FAILED), own, state)
        return x.astype(pred.x.dtype), jnp.where(pred.process.free(x), 0.0, confidence)
