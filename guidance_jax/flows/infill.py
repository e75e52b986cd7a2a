"""Infilling for flows: known patches are fixed from the start to the end.

x <- patches where they are known, before and after every step
"""

from typing import Any

import jax.numpy as jnp

from guidance_jax.core import KernelWrapper, Refused, concrete, pytree
from guidance_jax.flows.patches import OneBlock
from guidance_jax.kernels.inpaint import check_overwritable


@pytree
class InfillPatches(KernelWrapper):
    """Run `inner` with the patches of `known` fixed; NaN marks free entries. No fixed number ever changes.

    A known beginning is conditioned on exactly, like a prompt. Patches before a known patch are drawn without regard to
    it. Flows of several blocks are refused, since their patches exist only at the end.

    Attributes:
      inner: a kernel of a flow of one block; it may be a kernel of populations.
      known: (T, C), the same for all samples; NaN where free.

    Raises:
      Refused: known patches of another shape than the sample; other models; a population that weighs whole paths.
    """

    inner: Any
    known: Any

    takes = OneBlock

    def check(self, levels, shape, cond):
        self.check_inner()
        check_overwritable(self)
        if tuple(jnp.shape(self.known)) != tuple(shape[-2:]):
            raise Refused(f"the known patches have shape {jnp.shape(self.known)}, the sample {tuple(shape)}")
        if concrete(self.known) and bool(jnp.any(jnp.isinf(jnp.asarray(self.known)))):
            raise Refused("known patches must be finite, or NaN where they are free, got infinity")
        self.inner.check(levels, shape, cond)

    def put_known(self, x):
        """Return x with the known patches in their places."""
        known = jnp.asarray(self.known, x.dtype)
        return jnp.where(jnp.isnan(known), x, known)

    def __call__(self, carry, t, s, cond, key):
        carry = self.inner(carry._replace(x=self.put_known(carry.x)), t, s, cond, key)
        return carry._replace(x=self.put_known(carry.x))
