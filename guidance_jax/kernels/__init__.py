"""Kernels: one reverse transition, and what changes it."""
