"""Diagnostics of a guided sampler: its cost, its bias, and the strength of guidance at each level."""

from guidance_jax.diagnostics.bias import guidance_bias
from guidance_jax.diagnostics.by_level import guidance_by_level
from guidance_jax.diagnostics.ledger import Ledger, ledger

__all__ = ["Ledger", "guidance_bias", "guidance_by_level", "ledger"]
