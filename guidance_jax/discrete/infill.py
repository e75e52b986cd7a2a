"""Infilling: given tokens are given, from the start to the end, whatever the process and the solver.

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
    """An array as it is; a function of the condition, or the name of an entry, as a pytree."""
    return function(Bound(entry, known) if isinstance(known, str) else known)


def known_tokens(known: Any, cond: Any) -> Any:
    """The array of given tokens, -1 where free, of an array or a function of the condition."""
    return jnp.asarray(known(cond) if callable(known) else known)


@pytree
class Infill(KernelWrapper):
    """`inner` with the tokens of `known` fixed; -1 marks what is free. No fixed position ever changes.

    For masks this is exact conditioning, as a prompt is for a language model; for the uniform process it is
    replacement. Around `SMC` it conditions the whole population: p(x | known) p(y | x)^scale.

    Attributes:
      inner: a kernel of tokens or text, of populations too.
      known: one array (L,) for all, a function of the sample's condition, or the name of an entry of it.

    Raises:
      Refused: tokens out of the vocabulary, or another length than the sample; images; a population that weighs
        whole paths, unless its tokens are masks.
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
                f"known is one array ({shape[-1]},) for all samples, got shape {jnp.shape(known)}; for one each write "
                "known='name' and pass cond={'name': known}"
            )
        if jnp.shape(known)[-1:] != tuple(shape[-1:]):
            raise Refused(
                f"the known tokens have shape {jnp.shape(known)}, the sample {tuple(shape)}: fill free "
                f"positions, a prompt's "
                f"rest for example, up to {shape[-1]} with {FREE}, or sample longer sequences"
            )
        if concrete(known):
            self.space.check_tokens(known, blank=FREE)
        self.inner.check(levels, shape, cond)

    def put_known(self, x, cond):
        """x with the known tokens in their places."""
        known = known_tokens(self.known, cond)
        return jnp.where(known == FREE, x, known.astype(x.dtype))

    def __call__(self, carry, t, s, cond, key):
        carry = self.inner(carry._replace(x=self.put_known(carry.x, cond)), t, s, cond, key)
        return carry._replace(x=self.put_known(carry.x, cond))
