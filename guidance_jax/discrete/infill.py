"""Infilling: given tokens are given, from the start to the end, whatever the process and the solver.

x <- tokens where they are known, before and after every step
"""

from typing import Any

import jax.numpy as jnp

from guidance_jax.core import check, concrete, function, pytree, within

FREE = -1


@pytree
class Infill:
    """`kernel` with the tokens of `known` fixed; -1 marks what is free. No fixed position ever changes.

    For masks this is exact conditioning, as a prompt is for a language model; for the uniform process it is
    replacement. `known` is one array (L,) for all, or a function of the sample's condition, such as
    `itemgetter("prompt")`.

    Raises:
      ValueError: tokens out of the vocabulary, or another length than the sample.
    """

    kernel: Any
    known: Any

    def __post_init__(self):
        if callable(self.known):
            object.__setattr__(self, "known", function(self.known))

    def init(self, x):
        return self.kernel.init(x)

    def check(self, levels, shape, cond):
        owner = within(self.kernel, "process")
        if owner is None:
            raise ValueError("Infill is for tokens; for images write Inpaint(kernel, mask)")
        known = self.known(cond) if callable(self.known) else self.known
        if jnp.shape(known)[-1:] != tuple(shape[-1:]):
            raise ValueError(
                f"the known tokens have shape {jnp.shape(known)}, the sample {tuple(shape)}: fill free "
                f"positions, a prompt's "
                f"rest for example, up to {shape[-1]} with {FREE}, or sample longer sequences"
            )
        if concrete(known):
            owner.process.check_tokens(known, blank=FREE)
        check(self.kernel, levels, shape, cond)

    def fixed(self, x, cond):
        known = jnp.asarray(self.known(cond) if callable(self.known) else self.known)
        return jnp.where(known == FREE, x, known.astype(x.dtype))

    def __call__(self, carry, t, s, cond, key):
        carry = self.kernel(carry._replace(x=self.fixed(carry.x, cond)), t, s, cond, key)
        return carry._replace(x=self.fixed(carry.x, cond))
