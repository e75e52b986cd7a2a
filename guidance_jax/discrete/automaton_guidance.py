"""Guidance by rules: an automaton gives exact log-ratios for masked models, and a twist for particle methods.

    log p_l(v | rule) = log p_l(v) + log P(accept | x_l = v) - log P(accept)

P(accept) is the probability that a sequence follows the rule. Its masks are drawn independently from the model's
marginals, and decided tokens stay as they are. One pass over the sequence gives all L V ratios.
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
    """Return log p of every position, (L, V), normalised: the model's at masks, probability 1 for a decided token.

    Masks that cannot be decided yet have rate 0 for all tokens. For them log p is used without the tilt.
    """
    later = jnp.all(pred.log_weights == -jnp.inf, 1, keepdims=True)
    log_p = jax.nn.log_softmax(jnp.where(later, pred.log_p, pred.log_weights))
    known = log(jax.nn.one_hot(pred.x, log_p.shape[1], dtype=log_p.dtype))
    return jnp.where(pred.process.free(pred.x)[:, None], log_p, known)


@pytree
class AutomatonGuidance(Contrast):
    """Guide a masked model to sequences that follow a rule. Scale 0 is `inner`; 1 is Bayes' rule.

    There is no further network call. A token after which no sequence can follow the rule has probability 0. So with
    one token per step (`FirstHitting`, `PlannedUnmasking` with as many steps as tokens) every sample follows the rule.

    Tokens that are drawn in the same step may break the rule together. For several tokens per step use
    `PlannedUnmasking(within=automaton)`, which draws them jointly. The ratios are exact if the model's tokens are
    independent. For other models they are those of the marginals, and `Twisted` with `AutomatonTwist` removes the
    error. If the decided tokens of a sequence already break the rule, the sample is `FAILED`.

    Attributes:
      inner: a denoiser of masked tokens.
      automaton: the rule, an `Automaton`.
      scale: a number, `Window`, or a function of the level; not negative.

    Raises:
      Refused: a model of another space; a negative scale; a rule for another vocabulary, or without sequences of that
        length.

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
    """Return the prediction with log p + w ratios, normalised. Forbidden tokens are impossible unless w is 0."""
    forbidden = ratios == -jnp.inf
    gain = jnp.where(forbidden, jnp.where(w == 0, 0.0, -jnp.inf), w * jnp.where(forbidden, 0, ratios))
    gain = jnp.where(pred.process.free(pred.x)[:, None], gain, jnp.where(jnp.isnan(ratios), jnp.nan, 0))
    gain = jnp.where(jnp.asarray(w) == 0, 0.0, gain)
    return dataclasses.replace(pred, log_p=jax.nn.log_softmax(add_logs(pred.log_p, gain)))


@pytree
class AutomatonTwist(Guide):
    """Estimate log P(rule | x_t) under the model's marginals: 0 or -inf for clean tokens. One call of the model.

    `Twisted(model, solver, AutomatonTwist(model, rule), 1.0, AutomatonGuidance(model, rule), noisy=True)` samples
    p(x | rule), and its `log_evidence` estimates log p(rule).

    Attributes:
      model: the unguided denoiser of masked tokens.
      automaton: the rule, an `Automaton`.

    Raises:
      Refused: a rule for another vocabulary, or without sequences of that length; a model that is no denoiser.
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
