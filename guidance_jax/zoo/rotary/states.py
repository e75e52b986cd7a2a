"""A causal language model that encodes captions: its output is the hidden states of its last layer, before any norm."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.checkpoints.safetensors_file import Renamed
from guidance_jax.core import Refused
from guidance_jax.untrusted import whole_number
from guidance_jax.zoo.rotary.network import RotaryTransformer
from guidance_jax.zoo.rotary.reader import LLAMA, Sizes, params_of, qwen3


@dataclass(frozen=True)
class LanguageStates(RotaryTransformer):
    """Encode a caption: `apply(params, tokens (L,)) -> {"context": (L, width), "real": (L,)}`.

    `context` holds the hidden states, 0 at padding. `real` is 1 for tokens of the caption and 0 for padding.

    Attributes:
      length: L, the number of tokens of a caption, padding included.
      pad: the padding token, which follows the caption. Attention is causal, so tokens of the caption do not see it.
    """

    length: int = 512
    pad: int = 0

    def init(self, key: Any, tokens: Any) -> dict[str, Any]:
        """Return parameters of the right shapes, all zero."""
        zeros = jax.tree.map(jnp.zeros, self.shapes(), is_leaf=lambda shape: isinstance(shape, tuple))
        return {"params": zeros}

    def apply(self, params: Any, tokens: Any) -> dict[str, Any]:  # type: ignore[override]
        real = tokens != self.pad
        states, _ = self.read(params["params"], tokens, 0, None, block=1)
        return {"context": states * real[:, None].astype(states.dtype), "real": real.astype(jnp.float32)}


def read_states(
    state: Mapping[str, Any], about: Mapping[str, Any], length: int, pad: int
) -> tuple[LanguageStates, dict]:
    """Return (network, parameters) of Qwen3 without its last layer, from tensors with the names of transformers.

    Args:
      state: a mapping from tensor names to arrays.
      about: the content of the model's `config.json`.
      length: the number of tokens of a caption, padding included.
      pad: the padding token.

    Raises:
      Refused: another language model than Qwen3; a tensor that is missing, left over or of the wrong shape.
    """
    if about.get("model_type") != "qwen3":
        raise Refused(f"a text encoder of the kind {str(about.get('model_type'))[:40]!r} is not supported")
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    sizes = Sizes(*(whole_number(about, name, "text_encoder") for name in names))
    whole = qwen3(about, sizes, "text_encoder")
    network = LanguageStates(**vars(whole) | {"layers": sizes.layers - 1, "head": "none"}, length=length, pad=pad)
    named = {k if k.startswith(("model.", "lm_head.")) else f"model.{k}": k for k in state}
    last = (f"model.layers.{sizes.layers - 1}.", "model.norm.", "lm_head.")
    own = Renamed(state, {new: old for new, old in named.items() if not new.startswith(last)})
    return network, {"params": params_of(network, own, LLAMA, "text_encoder")}
