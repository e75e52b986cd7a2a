"""Infilling: given tokens stay fixed from the start to the end, for every process and solver.

x <- tokens where they are known, before and after every step
"""

from typing import Any

import jax.numpy as jnp

from guidance_jax.core import Bound, KernelWrapper, Refused, concrete, converted, function, pytree
from guidance_jax.discrete.process import Absorbing, Process
from guidance_jax.kernels.inpaint import check_overwritable
from guidance_jax.models.adapters import part_of

FREE = -1


def entry(name: str, cond: Any) -> Any:
    return part_of(cond, name)


def as_known(known: Any) -> Any:
    """Return an array unchanged, and a function of the condition or the name of an entry of it as a pytree."""
    return function(Bound(entry, known) if isinstance(known, str) else known)


def known_tokens(known: Any, cond: Any) -> Any:
    """Return the array of given tokens, -1 where free, from an array or a function of the condition."""
    return jnp.asarray(known(cond) if callable(known) else known)


@pytree
class Infill(KernelWrapper):
    """Fix the tokens of `known` before and after every step of `inner`; -1 marks free positions.

    For masks this is exact conditioning, as a prompt is for a language model; for the uniform process it is
    replacement. Around `SMC` it conditions the whole population, whose target is then p(x | known) p(y | x)^scale.

    Attributes:
      inner: a kernel of tokens or text, also one of populations.
      known: integers (L,), -1 where free: one array for all samples, a function of the sample's condition, or the name
        of an entry of the condition.

    Raises:
      Refused: tokens outside the vocabulary; another length than the sample; images; a population whose weights depend
        on whole paths (`Corrected`), unless its space is `Absorbing`.
    """

    inner: Any
    known: Any = converted(as_known)

    takes = Process

    def check(self, levels, shape, cond):
        self.check_inner()
        if not isinstance(self.space, Absorbing):  # a decided token has no transition, so there is nothing to weigh
            check_overwritable(self)
        known = self.known(cond) if callable(self.known) else self.known
        if not callable(self.known) and jnp.ndim(known) != 1:
            raise Refused(
                f"known must be one array ({shape[-1]},) for all samples, got shape {jnp.shape(known)}; for one per "
                "sample write known='name' and pass cond={'name': known}"
            )
        if jnp.shape(known)[-1:] != tuple(shape[-1:]):
            raise Refused(
                f"the known tokens have shape {jnp.shape(known)}, the sample {tuple(shape)}; write {FREE} at free "
                f"positions, for example after a prompt, up to length {shape[-1]}, or sample longer sequences"
            )
        if concrete(known):
            self.space.check_tokens(known, blank=FREE)
        self.inner.check(levels, shape, cond)

    def put_known(self, x, cond):
        """Return x with the known tokens in their places."""
        known = known_tokens(self.known, cond)
        return jnp.where(known == FREE, x, known.astype(x.dtype))

    def __call__(self, carry, t, s, cond, key):
        carry = self.inner(carry._replace(x=self.put_known(carry.x, cond)), t, s, cond, key)
        return carry._replace(x=self.put_known(carry.x, cond))
