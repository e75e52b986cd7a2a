"""Rules as guides: an automaton's exact ratios for masked models, its twist for particles, its draws within a plan.

    log p_l(v | rule) = log p_l(v) + log P(accept | x_l = v) - log P(accept)

under the product of the model's own marginals, with decided tokens as they are: all L V ratios in one pass.
Decoding with rules: DINGO (2025, arXiv 2505.23061), Diffinity (2602.12468).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.automata.automaton import Automaton
from guidance_jax.core import Denoiser, Guide, add_logs, log, need, pytree
from guidance_jax.discrete.process import Absorbing
from guidance_jax.guidance.base import Contrast
from guidance_jax.guidance.scales import not_negative, strength


def marginals(pred: Any) -> Any:
    """log p of every position, (L, V), normalised: the model's at masks, certainty at decided tokens.

    Masks that cannot be decided yet, whose tokens all have rate 0, count by log p alone.
    """
    later = jnp.all(pred.log_weights == -jnp.inf, 1, keepdims=True)
    log_p = jax.nn.log_softmax(jnp.where(later, pred.log_p, pred.log_weights))
    known = log(jax.nn.one_hot(pred.x, log_p.shape[1], dtype=log_p.dtype))
    return jnp.where(pred.process.free(pred.x)[:, None], log_p, known)


@pytree
class AutomatonGuidance(Contrast):
    """Guide a masked model to sequences that follow a rule. Scale 0 is `inner`; 1 is Bayes' rule. No network call.

    A token after which no sequence can follow the rule has probability 0. So with one token per step
    (`FirstHitting`, `PlannedUnmasking` with as many steps as tokens) every sample follows the rule. Tokens that are
    drawn together may break it together: give `PlannedUnmasking` the automaton instead, which draws them jointly. The
    ratios are exact if the model's tokens are independent; for other models they are those of its marginals, and
    `Twisted` with `AutomatonTwist` removes the error.

    Attributes:
      inner: a denoiser of masked tokens.
      automaton: the rule, an `Automaton`.
      scale: a number, `Window`, or a function of the level; not negative.

    Raises:
      Refused: another space; a negative scale; a vocabulary or a length that the rule is not for. A sequence whose
        decided tokens already break the rule is `FAILED`.

    >>> import guidance_jax as gj
    >>> rule = gj.automata.Automaton.count(0, 1, 1, vocabulary=3)
    >>> uniform = gj.TokenNetwork((), lambda w, x, t, cond: jnp.zeros((4, 3)), gj.Absorbing(3), batched=False)
    >>> kernel = gj.Reverse(AutomatonGuidance(uniform, rule), gj.discrete.FirstHitting())
    >>> x = gj.generate(gj.keys(0, 5), kernel, gj.RectifiedFlow().levels(4), (4,))
    >>> (x == 0).sum(1).tolist()
    [1, 1, 1, 1, 1]
    """

    inner: Any
    automaton: Any
    scale: Any = 1.0

    takes = Absorbing

    def check(self, levels, shape, cond):
        self.check_inner()
        need(self, self.automaton, Automaton, "the automaton")
        not_negative(self)
        self.automaton.check(self.inner.space.vocabulary, shape[-1])
        self.inner.check(levels, shape, cond)

    def parts(self, x, level, cond, state, key):
        weak, state = self.inner(x, level, cond, state, key)
        ratios = self.automaton.log_ratios(marginals(weak))
        w = strength(self.scale, level, cond, off=0.0)
        return tilt(weak, ratios, w), tilt(weak, ratios, 1.0), weak, state


def tilt(pred: Any, ratios: Any, w: Any) -> Any:
    """The prediction with log p + w ratios, normalised; what a rule forbids is impossible at every w but 0."""
    forbidden = ratios == -jnp.inf
    gain = jnp.where(forbidden, jnp.where(w == 0, 0.0, -jnp.inf), w * jnp.where(forbidden, 0, ratios))
    gain = jnp.where(pred.process.free(pred.x)[:, None], gain, jnp.where(jnp.isnan(ratios), jnp.nan, 0))
    gain = jnp.where(jnp.asarray(w) == 0, 0.0, gain)
    return dataclasses.replace(pred, log_p=jax.nn.log_softmax(add_logs(pred.log_p, gain)))


@pytree
class AutomatonTwist(Guide):
    """log P(rule | x_t) under the model's marginals; of clean tokens 0 or -inf. One call of the model.

    For `Twisted(model, solver, AutomatonTwist(model, rule), 1.0, AutomatonGuidance(model, rule), noisy=True)`: samples
    of p(x | rule), and the evidence is log p(rule).

    Attributes:
      model: the unguided denoiser of masked tokens.
      automaton: the rule.

    Raises:
      Refused: as `AutomatonGuidance`.
    """

    model: Any
    automaton: Any

    takes = Absorbing

    def check(self, levels, shape, cond):
        need(self, self.model, Denoiser, "the model")
        need(self, self.automaton, Automaton, "the automaton")
        self.automaton.check(self.model.space.vocabulary, shape[-1])

    def log_prob(self, x, level, cond):
        pred, _ = self.model(x, level, cond, self.model.init(x), jax.random.key(0))
        return self.automaton.log_probability(marginals(pred))
