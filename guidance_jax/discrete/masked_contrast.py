"""Guidance without a null condition: contrast a masked model with itself on a sequence with more masks.

    log p proportional to (1 - scale) log p(x0_l | fewer tokens) + scale log p(x0_l | x_t)

`PromptCFG` hides the prompt (LLaDA, Nie et al. 2025, arXiv 2502.09992, appendix A), `AdaptiveCFG` hides the tokens that
the model is least sure of (A-CFG, Li et al. 2025, arXiv 2505.20199, Algorithm 1).
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import Refused, concrete, converted, pytree
from guidance_jax.discrete.infill import FREE, as_known, known_tokens
from guidance_jax.discrete.process import Absorbing
from guidance_jax.guidance.base import Contrast
from guidance_jax.guidance.scales import active, strength, when


class MaskedContrast(Contrast):
    """Contrast the model with itself on a sequence with more masks. Subclasses define the fields and `hide`."""

    takes = Absorbing

    def init(self, x):
        return self.inner.init(x), self.inner.init(x)

    def hide(self, x: Any, pred: Any, cond: Any) -> Any:
        """Return the sequence x (L,) with more masks, given the prediction at x."""
        raise NotImplementedError

    def parts(self, x, level, cond, state, key):
        w = strength(self.scale, level, cond, off=1.0)
        strong, first = self.inner(x, level, cond, state[0], key)
        weak, second = when(
            active(self.scale, level),
            lambda: self.inner(self.hide(x, strong, cond), level, cond, state[1], key),
            lambda: (strong, state[1]),
        )
        return strong.contrast(weak, w, level), strong, weak, (first, second)


@pytree
class PromptCFG(MaskedContrast):
    """Apply classifier-free guidance to a prompt: the weak model sees masks in place of the prompt.

    Scale 1 is the model, 0 the model that does not see the prompt; LLaDA's `cfg_scale` is `scale - 1`. Two network
    calls per step. Fix the prompt itself with `Infill(Reverse(PromptCFG(...)), known)`.

    Attributes:
      inner: a denoiser of masked tokens.
      prompt: (L,) given tokens and -1 elsewhere, like `known` of `Infill`: an array, a function of the condition, or
        the name of an entry of the condition.
      scale: a number, `Window`, or a function of the level. Outside a `Window` the second call is skipped.

    Raises:
      Refused: a model of another space; a prompt of another length than the sample.

    >>> import guidance_jax as gj
    >>> model = gj.TokenNetwork((), lambda w, x, t, cond: jnp.zeros((4, 3)), gj.Absorbing(3), batched=False)
    >>> prompt = jnp.array([2, -1, -1, -1])
    >>> kernel = gj.Infill(gj.Reverse(PromptCFG(model, prompt, 2.0), gj.discrete.PlannedUnmasking()), prompt)
    >>> gj.generate(gj.keys(0, 2), kernel, gj.RectifiedFlow().levels(4), (4,))[:, 0].tolist()
    [2, 2]
    """

    inner: Any
    prompt: Any = converted(as_known)
    scale: Any

    def check(self, levels, shape, cond):
        super().check(levels, shape, cond)
        known = self.prompt(cond) if callable(self.prompt) else self.prompt
        if jnp.shape(known)[-1:] != tuple(shape[-1:]):
            raise Refused(
                f"the prompt has shape {jnp.shape(known)}, the sample {tuple(shape)}; pad it with {FREE} to that length"
            )

    def hide(self, x, pred, cond):
        return jnp.where(known_tokens(self.prompt, cond) == FREE, x, self.space.mask).astype(x.dtype)


@pytree
class AdaptiveCFG(MaskedContrast):
    """Contrast with the model that does not see its least confident tokens. Two network calls per step, in turn.

    Among the decided tokens outside the prompt, the share `rho` with the lowest max_v p(v) is masked. At least one is
    masked if any is decided and `rho` is positive. Scale 1 or rho 0 is the model. With rho 1 the weak model sees only
    the prompt.

    Attributes:
      inner: a denoiser of masked tokens.
      scale: a number, `Window`, or a function of the level.
      rho: the share of decided tokens that are masked, from 0 to 1; the published value is 0.3.
      prompt: the given tokens, which stay visible, like `prompt` of `PromptCFG`; None if there is no prompt.

    Raises:
      Refused: a model of another space; a share outside 0 to 1; a prompt of another length than the sample.
    """

    inner: Any
    scale: Any
    rho: Any = 0.3
    prompt: Any = converted(lambda known: None if known is None else as_known(known), default=None)

    def __post_init__(self):
        if concrete(self.rho) and not 0 <= self.rho <= 1:
            raise Refused(f"rho of AdaptiveCFG must be from 0 to 1, got {self.rho}; the published value is 0.3")

    def check(self, levels, shape, cond):
        super().check(levels, shape, cond)
        if self.prompt is not None:
            PromptCFG(self.inner, self.prompt, 1.0).check(levels, shape, cond)

    def hide(self, x, pred, cond):
        decided = ~self.space.free(x)
        if self.prompt is not None:
            decided &= known_tokens(self.prompt, cond) == FREE
        confidence = jnp.where(decided, jnp.max(jax.nn.log_softmax(pred.log_weights), -1), jnp.inf)
        count = jnp.sum(decided)
        hidden = jnp.where(self.rho > 0, jnp.clip(jnp.floor(self.rho * count + 1e-4), 1, count), 0)
        again = decided & (jnp.argsort(jnp.argsort(confidence)) < hidden)
        return jnp.where(again, self.space.mask, x).astype(x.dtype)
