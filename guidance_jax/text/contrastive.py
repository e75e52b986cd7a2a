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
    """`Autoguidance` of tokens, among the expert's plausible tokens only; scale 1 and plausible 0 is the expert.

    One call of each model. Their original form, log p_expert - log p_weak, is the direction of large scales.

    Attributes:
      inner: the expert, a denoiser of tokens or text.
      weak: the amateur, of the same space.
      scale: a number, `Window`, `PerClass`, or a function of the level.
      plausible: the least probability of a token, as a share of the largest of the expert's.

    Raises:
      Refused: as `Autoguidance`; images or vectors.
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
