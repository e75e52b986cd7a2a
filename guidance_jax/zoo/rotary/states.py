"""A causal language model as a reader of captions: the states of its last layer here, before any norm."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.zoo.rotary.network import RotaryTransformer


@dataclass(frozen=True)
class LanguageStates(RotaryTransformer):
    """`apply(params, tokens (L,)) -> {"context": (L, width), "real": (L,)}`; `real` is 1 for tokens of the caption.

    Attributes:
      length: tokens that are read.
      pad: the token that fills up behind the caption, which no word before it sees.
    """

    length: int = 512
    pad: int = 0

    def init(self, key: Any, tokens: Any) -> dict[str, Any]:
        """Parameters of the right shapes, all zero."""
        zeros = jax.tree.map(jnp.zeros, self.shapes(), is_leaf=lambda shape: isinstance(shape, tuple))
        return {"params": zeros}

    def apply(self, params: Any, tokens: Any) -> dict[str, Any]:  # type: ignore[override]
        real = tokens != self.pad
        states, _ = self.read(params["params"], tokens, 0, None, block=1)
        return {"context": states * real[:, None].astype(states.dtype), "real": real.astype(jnp.float32)}
