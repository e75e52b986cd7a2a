"""What all rules of a conditional and an unconditional prediction share: both are asked, a rule makes one of them."""

from typing import Any, ClassVar

import jax.numpy as jnp

from guidance_jax.core import pytree, static
from guidance_jax.guidance.base import Contrast, both, check_conditions, only_guided, stack_states
from guidance_jax.guidance.scales import active, strength


@pytree
class TwoConditions(Contrast):
    """A model asked with the condition and with the null condition, and a `rule` of the two. No method by itself.

    A subclass gives `rule`, and `memory` if that remembers something from step to step.

    Attributes:
      inner: a denoiser trained with conditioning dropout.
      null: the condition that means "unconditional", of the structure of one sample's `cond` (`domain.null_label`); of
        a dict, entries that it lacks are the sample's own, such as the image beside a caption.
      scale: a number, `Window`, `PerClass`, or a function of the level.
      in_turn: ask the two conditions one after the other, in half the memory; by default they are one batch (vmapped,
        which is concatenated: a network sees one axis).

    Raises:
      Refused: no condition or no null condition, or a condition that the model does not know.
    """

    inner: Any
    null: Any
    scale: Any
    in_turn: bool = static(default=False, kw_only=True)

    off: ClassVar[float] = 1.0  # the strength outside a `Window`

    def rule(self, c: Any, u: Any, w: Any, x: Any, level: Any, memory: Any) -> tuple[Any, Any]:
        """(guided prediction, new memory) from the conditional and the unconditional one at strength w."""
        raise NotImplementedError

    def memory(self, x: Any) -> Any:
        """What the rule itself remembers from step to step."""
        return ()

    def init(self, x):
        return stack_states(self.inner.init(x)), self.memory(x)

    def check(self, levels, shape, cond):
        check_conditions(self, levels, shape, cond)

    def parts(self, x, level, cond, state, key):
        w = strength(self.scale, level, cond, off=self.off)
        states, memory = state
        c, u, states = self.predictions(x, level, cond, states, memory, key)
        guided, memory = self.rule(c, u, w, x, level, memory)
        return only_guided(self.inner, guided, self.keep(c, u)), c, u, (states, memory)

    def predictions(self, x, level, cond, states, memory, key):
        """(conditional, unconditional, states)."""
        on = self.needs_unconditional(level, memory)
        on = jnp.array(True) if on is None and self.in_turn else on
        return both(self.inner, x, level, cond, self.null, states, key, on)

    def needs_unconditional(self, level: Any, memory: Any) -> Any:
        """Whether the unconditional call is needed: a boolean, or None for always."""
        return active(self.scale, level)

    def keep(self, c: Any, u: Any) -> Any:
        """The prediction that stays in channels which the model does not want guided."""
        return c
