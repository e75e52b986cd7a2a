"""What a guided sampler does: its cost, its bias, and what its guide is worth level by level."""

from guidance_jax.diagnostics.bias import guidance_bias
from guidance_jax.diagnostics.by_level import guidance_by_level
from guidance_jax.diagnostics.ledger import Ledger, ledger

__all__ = ["Ledger", "guidance_bias", "guidance_by_level", "ledger"]
