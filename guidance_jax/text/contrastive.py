"""Contrastive decoding (Li et al. 2023, arXiv 2210.15097, eq. 2 to 4; the strength after O'Brien & Lewis, 2309.09117).

log p = log p_weak + scale (log p_expert - log p_weak)   where p_expert(v) >= plausible max p_expert, else 0
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import pytree
from guidance_jax.discrete.process import Process
from guidance_jax.guidance.autoguidance import Autoguidance


@pytree
class Contrastive(Autoguidance):
    """Apply `Autoguidance` to tokens, among the expert's plausible tokens only. One call of each model per step.

    Scale 1 with plausible 0 is the expert. For large scales the ranking of the tokens approaches the paper's original
    score log p_expert - log p_weak.

    Attributes:
      inner: the expert, a denoiser of tokens or text.
      weak: the amateur, of the same space.
      scale: a number, `Window`, `PerClass`, or a function of the level.
      plausible: the least probability of a token, as a share (0 to 1) of the expert's largest probability. 0 keeps all
        tokens.

    Raises:
      Refused: a weak model of another space; a model of images or vectors.
    """

    inner: Any
    weak: Any
    scale: Any
    plausible: Any = 0.1

    takes = Process
    aims_at_power = False

    def rule(self, good, weak, w, level):
        guided = good.contrast(weak, w, level)
        likely = good.log_p >= jnp.max(good.log_p, -1, keepdims=True) + jnp.log(jnp.maximum(self.plausible, 1e-30))
        return dataclasses.replace(
            guided, log_p=jax.nn.log_softmax(jnp.where(likely | jnp.isnan(good.log_p), guided.log_p, -jnp.inf))
        )
