"""Autoregressive models in the same `sample` loop: a level is a position, and the cache is the model's state."""

from guidance_jax.text.contrastive import Contrastive
from guidance_jax.text.fudge import FUDGE
from guidance_jax.text.language_model import LanguageModel
from guidance_jax.text.pplm import PPLM
from guidance_jax.text.prefix import PrefixClassifier, PrefixGuide
from guidance_jax.text.sequence import LeftToRight, positions

__all__ = [
    "Contrastive",
    "FUDGE",
    "LanguageModel",
    "LeftToRight",
    "PPLM",
    "PrefixClassifier",
    "PrefixGuide",
    "positions",
]
