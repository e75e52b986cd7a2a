"""Trained networks that ship with the package, for a first picture, tutorials and tests on two CPU cores."""

from guidance_jax.examples.digits import digits

__all__ = ["digits"]
