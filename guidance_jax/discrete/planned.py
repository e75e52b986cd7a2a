"""Planned unmasking: the model's own confidence decides which masks are revealed next.

    every mask draws v_l ~ p_l^(1 / temperature);  the most confident positions keep theirs, the others stay masked

This is how masked diffusion language models are decoded: MaskGIT (Chang et al. 2022, arXiv 2202.04200), LLaDA (Nie et
al. 2025, 2502.09992), Dream (2508.15487), Fast-dLLM (2505.22618), entropy bounds (Ben-Hamu et al. 2025, 2505.24857).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.automata.automaton import Automaton
from guidance_jax.core import (
    FAILED,
    Refused,
    argmax_token,
    draw_token,
    need,
    pytree,
    static,
)
from guidance_jax.discrete import orders
from guidance_jax.discrete.ancestral import TokenSolver
from guidance_jax.discrete.automaton_guidance import marginals
from guidance_jax.discrete.entropy_bound import within_bound
from guidance_jax.discrete.process import Absorbing


@pytree
class PlannedUnmasking(TokenSolver):
    """Reveal the most confident masks at every step, and leave the others masked. One network call per step.

    At least ceil(m (alpha_s - alpha_t) / (1 - alpha_t)) of m masks are revealed, so that none is left at the end. On
    levels that are evenly spaced in alpha, this is LLaDA's division of the masks among the steps. `threshold` and
    `bound` reveal more. With as many steps as tokens, exactly one token is revealed per step unless they ask for more.
    If the order does not depend on the drawn tokens, one token per step samples the model exactly, guidance by exact
    rates included.

    Attributes:
      temperature: the temperature of the draw of tokens; 0 takes the most probable one, None is 1. The order sees log p
        without it.
      top_k, top_p: as in `Ancestral`.
      order: a function of `discrete.orders`, or another f(log_p, drawn, key) -> confidence (L,).
      threshold: reveal every position whose confidence exceeds it (Fast-dLLM, LLaDA2). None for no threshold.
      bound: reveal positions from the most confident on while the sum of their entropies minus the largest one is at
        most `bound` nats. Each step then errs by at most `bound` in KL. None for no bound.
      noise: Dream's `alg_temp`: Gumbel noise of this size is added to the confidence. None or 0 for none.
      edit: replace a decided token if another one is more probable than `edit` (LLaDA2.1). Fix a prompt with `Infill`.
        None for no edits.
      block: reveal within the first unfinished block of `block` tokens only, counted from the first mask (LLaDA's
        semi-autoregressive blocks, which do not change the attention). None for one block.
      within: an `Automaton`, the rule that every sample then follows, for any number of tokens per step. All masks are
        drawn jointly, from the product of their p_l given that the whole sequence follows the rule. None for no rule.
      last: a token, such as the end of the text. Positions about to become it are revealed after all others.

    Raises:
      Refused: a negative temperature; a `top_p` that is not positive; a `top_k` or a block below 1; `edit` with
        `within`; a process without masks. Particle methods refuse it too: their weights are only defined if the
        guided and the unguided model reveal the same positions.

    >>> import guidance_jax as gj
    >>> gj.discrete.PlannedUnmasking(order=gj.discrete.orders.entropy, bound=0.1).bound
    0.1
    """

    temperature: Any = None
    top_k: Any = None
    top_p: Any = None
    order: Callable = static(default=orders.max_probability)
    threshold: Any = None
    bound: Any = None
    noise: Any = None
    edit: Any = None
    block: int | None = static(default=None)
    within: Any = None
    last: int | None = static(default=None)

    takes = Absorbing
    zero_is_greedy = True

    def __post_init__(self):
        super().__post_init__()
        if self.block is not None and self.block < 1:
            raise Refused(f"a block needs at least one token, got block={self.block}; remove block= for a single block")
        if self.within is not None and self.edit is not None:
            raise Refused("`edit` could break the rule of `within`; remove one of the two")

    def init(self, x):
        return jnp.asarray(-1)  # the position of the first mask, unknown before the first step

    def check(self, levels, shape, cond):
        super().check(levels, shape, cond)
        if self.within is not None:
            need(self, self.within, Automaton, "within")
            self.within.check(self.within.vocabulary, shape[-1])

    def draw(self, log_p: Any, pred: Any, key: Any) -> Any:
        """Return the tokens drawn for all positions, (L,): independently, or jointly within the rule."""
        if self.within is not None:
            log_p = jnp.where(self.ready(pred)[:, None], log_p, marginals(pred))
        random = draw_token if self.within is None else lambda key, log_p: self.within.draw(log_p, key)
        greedy = argmax_token if self.within is None else self.within.mode
        if self.temperature is None:
            return random(key, log_p)
        cold = jnp.asarray(self.temperature) == 0
        return jax.lax.cond(cold, lambda: greedy(log_p).astype(jnp.int32), lambda: random(key, log_p).astype(jnp.int32))

    def ready(self, pred: Any) -> Any:
        """Return the masks that the model may decide now, (L,) booleans: those where some token has a positive rate."""
        return pred.process.free(pred.x) & ~jnp.all(pred.log_weights == -jnp.inf, 1)

    def reveal(self, pred: Any, drawn: Any, t: Any, s: Any, first: Any, key: Any) -> Any:
        """Return the masks to reveal, (L,) booleans. Blocks are counted from the position `first`."""
        order_key, noise_key = jax.random.split(key)
        place, masks = jnp.arange(len(pred.x)), pred.process.free(pred.x)
        log_p, free = jax.nn.log_softmax(pred.log_weights), self.ready(pred)
        confidence = self.order(log_p, drawn, order_key)
        if self.last is not None:
            likely = drawn if self.order is orders.low_confidence else argmax_token(log_p)
            confidence = jnp.where(likely == self.last, -jnp.inf, confidence)
        score = confidence
        if self.noise is not None:
            score = score + self.noise * jax.random.gumbel(noise_key, score.shape)
        block = jnp.zeros_like(place) if self.block is None else (place - first) // self.block
        current = free & (block == jnp.min(jnp.where(free, block, len(place))))
        # sort masks before decided tokens, then by block, by falling confidence, and from left to right
        ranked = jnp.lexsort((place, -score, jnp.where(free, block, len(place))))
        rank = jnp.argsort(ranked)
        share = (s.alpha - t.alpha) / jnp.maximum(1 - t.alpha, 1e-12)
        revealed = rank < jnp.ceil(jnp.sum(masks) * share - 1e-4)
        if self.threshold is not None:
            revealed |= current & (confidence > self.threshold)
        if self.bound is not None:
            uncertainty = jnp.where(current, -orders.entropy(log_p, drawn, order_key), 0)
            revealed |= current & within_bound(uncertainty, self.bound, ranked)
        return revealed & free

    def step(self, pred, t, s, evaluate, state, key):
        draw_key, reveal_key = jax.random.split(key)
        free = self.ready(pred)
        first = jnp.where(state < 0, jnp.argmax(free), state)
        log_p = jax.nn.log_softmax(self.truncate(pred).log_weights)
        drawn = self.draw(log_p, pred, draw_key)
        changed = self.reveal(pred, drawn, t, s, first, reveal_key) | (free & (drawn == FAILED))
        if self.edit is not None:
            probability = orders.low_confidence(log_p, drawn, reveal_key)
            changed |= ~pred.process.free(pred.x) & (drawn != FAILED) & (drawn != pred.x) & (probability > self.edit)
        return jnp.where(changed, drawn.astype(pred.x.dtype), pred.x), first
