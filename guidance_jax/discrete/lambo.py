"""LaMBO-2: guided edits of a whole sequence (Gruver et al. 2023, arXiv 2305.20009, section 4.2 and 5.3).

positions   drawn by saliency, |d value / d one-hot . (mask - one-hot)|
proposals   those positions masked, filled in by NOS
x           <- the best feasible proposal, if it is no worse
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from guidance_jax.core import (
    FAILED,
    Kernel,
    Refused,
    converted,
    draw_token,
    function,
    is_sound,
    pytree,
    scalar,
    static,
)
from guidance_jax.discrete.nos import NOS
from guidance_jax.discrete.process import Absorbing


class Edited(NamedTuple):
    """The carry of `LaMBO`: a sequence while it is edited."""

    x: Any
    model_state: Any
    score: Any  # of x under `objective`; -inf until a feasible x is known
    dropped: Any  # the number of proposals so far whose score was NaN


def anything(x: Any) -> Any:
    """Return True: every sequence is feasible."""
    return jnp.bool_(True)


@pytree
class LaMBO(Kernel):
    """A kernel that edits about sigma L positions of x per step, and never lowers its score.

    Start it with `sample(key, LaMBO(...), levels, x)` from a complete sequence, on levels that start low, for example
    `schedule.levels(16, start=0.2)`. `generate` starts from random tokens instead. Each step costs one saliency
    gradient, one call of `NOS` and `proposals` + 1 scores. A proposal whose score is NaN is dropped and counted.

    Attributes:
      model: `NOS(model, value, scale)` on an absorbing process; its value also gives the saliency.
      objective: `f(x) -> scalar`, the score to raise; None is the value of the model's own hidden states.
      feasible: `f(x) -> bool`, False for sequences that must not be accepted. By default every sequence is feasible.
      known: (L,) tokens that must not change, -1 for free positions; None if all are free.
      temperature: the temperature of the choice of positions; low values always take the most salient ones.
      proposals: the number of sequences drawn per step.

    Raises:
      Refused: a process without masks, or a model that is not NOS.
    """

    model: Any
    objective: Any = converted(function, default=None)
    feasible: Any = converted(function, default=anything)
    known: Any = None
    temperature: Any = 0.125
    proposals: int = static(default=4)

    @property
    def space(self):
        return self.model.space

    def check(self, levels, shape, cond):
        if not isinstance(self.model, NOS) or not isinstance(self.space, Absorbing):
            raise Refused("LaMBO edits by NOS on an absorbing process; write LaMBO(NOS(model, value, scale))")
        self.model.check(levels, shape, cond)

    def start(self, key, levels, shape):
        tokens = jax.random.randint(key, shape, 0, self.space.states - 1, jnp.int32)
        return tokens + (tokens >= self.space.mask)

    def init(self, x):
        return Edited(x, self.model.init(x), jnp.full((), -jnp.inf), jnp.zeros((), jnp.int32))

    def value(self, x, level, cond):
        """Return the guide's value of tokens (L,), or of one-hot vectors (L, states)."""
        return self.model.value.value(self.model.inner.hidden(x, level, cond), level, cond)

    def score(self, x, level, cond):
        """Return (score, whether it was NaN) of a sequence; NaN and infeasible sequences score -inf."""
        value = self.value(x, level, cond) if self.objective is None else scalar(self.objective(x), "the objective")
        bad = jnp.isnan(value)
        return jnp.where(self.feasible(x) & ~bad, value, -jnp.inf), bad

    def positions(self, x, t, level, cond, key):
        """Return where to edit, (L,) booleans: about sigma L positions, by Gumbel top-k on the normalised saliency."""
        states, mask = self.space.states, self.space.mask
        g = jax.grad(self.value)(jax.nn.one_hot(x, states), level, cond)
        saliency = jnp.abs(g[:, mask] - jnp.take_along_axis(g, x[:, None], 1)[:, 0])
        logits = saliency / jnp.maximum(jnp.sum(saliency), 1e-12) / self.temperature
        free = jnp.ones(x.shape, bool) if self.known is None else jnp.asarray(self.known) < 0
        rank = jnp.argsort(jnp.argsort(-jnp.where(free, logits + jax.random.gumbel(key, x.shape), -jnp.inf)))
        return free & (rank < jnp.maximum(jnp.round(t.sigma * len(x)), 1))

    def __call__(self, carry, t, s, cond, key):
        position_key, model_key, token_key = jax.random.split(key, 3)
        clean = t._replace(t=jnp.zeros_like(t.t), alpha=jnp.ones_like(t.alpha), sigma=jnp.zeros_like(t.sigma))
        before, _ = self.score(carry.x, clean, cond)
        edited = self.positions(carry.x, t, clean, cond, position_key)
        masked = jnp.where(edited, self.space.mask, carry.x)
        pred, state = self.model(masked, t, cond, carry.model_state, model_key)
        fresh = jax.vmap(draw_token, (0, None))(jax.random.split(token_key, self.proposals), pred.log_p)
        found = jnp.where(edited, fresh.astype(masked.dtype), carry.x)
        scores, nans = jax.vmap(lambda x: self.score(x, clean, cond))(found)
        best = jnp.argmax(scores)
        better = scores[best] >= before
        x = jnp.where(better & (scores[best] > -jnp.inf), found[best], carry.x)
        x = jnp.where(jnp.all(jax.vmap(is_sound)(found)), x, FAILED)  # the model gave no distribution
        dropped = carry.dropped + jnp.sum(nans).astype(jnp.int32)
        return Edited(x, state, jnp.maximum(scores[best], before), dropped)
