"""Base class of the methods that combine a conditional and an unconditional prediction by a rule."""

from typing import Any, ClassVar

import jax.numpy as jnp

from guidance_jax.core import pytree, static
from guidance_jax.guidance.base import Contrast, both, check_conditions, only_guided, stack_states
from guidance_jax.guidance.scales import active, strength


@pytree
class TwoConditions(Contrast):
    """Base class: call a model with the condition and the null condition, and combine both predictions by `rule`.

    A subclass defines `rule`, and `memory` if its rule keeps a state from step to step.

    Attributes:
      inner: a denoiser trained with conditioning dropout.
      null: the condition that means "unconditional" (`domain.null_label`), of the structure of one sample's `cond`. If
        both are dicts, entries that `null` lacks are taken from `cond`, such as the image beside a caption.
      scale: the guidance scale: a number, `Window`, `PerClass`, or a function of the level.
      in_turn: whether to call the network for the two conditions one after the other, which takes half the memory. By
        default both conditions form one batch (by `vmap`; a network that takes batches gets one batch axis).

    Raises:
      Refused: no condition or no null condition, or a condition that the model does not know.
    """

    inner: Any
    null: Any
    scale: Any
    in_turn: bool = static(default=False, kw_only=True)

    off: ClassVar[float] = 1.0  # the strength outside a `Window`

    def rule(self, c: Any, u: Any, w: Any, x: Any, level: Any, memory: Any) -> tuple[Any, Any]:
        """Return (guided prediction, new memory) from the conditional `c` and the unconditional `u` at scale `w`."""
        raise NotImplementedError

    def memory(self, x: Any) -> Any:
        """Return the state of the rule before the first step; `()` for a rule without state."""
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
        """Return (conditional prediction, unconditional prediction, new states)."""
        on = self.needs_unconditional(level, memory)
        on = jnp.array(True) if on is None and self.in_turn else on
        return both(self.inner, x, level, cond, self.null, states, key, on)

    def needs_unconditional(self, level: Any, memory: Any) -> Any:
        """Return whether the unconditional call is needed: a boolean, or None for always."""
        return active(self.scale, level)

    def keep(self, c: Any, u: Any) -> Any:
        """Return the prediction for the channels that are not guided (`Domain.guided_channels`)."""
        return c
