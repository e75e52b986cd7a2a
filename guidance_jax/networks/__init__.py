"""Networks in Flax Linen, the only folder that imports flax. Every module is written for one sample: `vmap` it."""
