"""An autoregressive flow as a denoiser of the next patch, with its exact density.

    z_i = (x_i - b_{i-1}) exp(-a_{i-1}) in every block,   log p(x) = log N(z; 0, I) - sum of all a

(Zhai et al. 2024, TarFlow, arXiv 2412.06329.)
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from guidance_jax.core import Denoiser, pytree, static
from guidance_jax.flows.patches import OneBlock, Patches, PatchPrediction, in_order
from guidance_jax.models.domain import Domain, network_condition, unless_unknown
from guidance_jax.models.network import Parametrized


@pytree
class AutoregressiveFlow(Parametrized, Denoiser):
    """Wrap a flow given by pure functions of one sample (T, C): `step` for one patch, `apply` for a whole block.

    Sample it with `Reverse(flow, PatchByPatch())` on `patch_levels(T, blocks)`.

    Attributes:
      params: a pytree of arrays.
      apply: apply(params, block, x (T, C), cond, temperature) -> (a, b), each (T, C), in the block's own order. Row i
        depends on x_0 .. x_i alone and transforms patch i + 1; the last row is not used.
      step: step(params, block, patch (C,), i, cache, cond, temperature) -> (a (C,), b (C,), cache): row i of `apply`.
      blank: blank(T) -> cache, zeros of the right shapes.
      blocks: K, the number of blocks.
      domain: the classes, null label and shape (T, C) that samples and labels are checked against; None for no checks.
      temperature: divides the attention logits; a value other than 1 makes the weak model of an unconditional flow.

    Raises:
      Refused: samples of another shape, other levels, labels that the flow does not have.
    """

    params: Any
    apply: Callable = static()
    step: Callable = static()
    blank: Callable = static()
    blocks: int = static()
    domain: Domain | None = static(default=None)
    temperature: Any = 1.0

    functions = ("apply", "step")

    @property
    def space(self):
        return OneBlock() if self.blocks == 1 else Patches(self.blocks)

    def init(self, x):
        return self.blank(len(x))

    def check(self, levels, shape, cond):
        self.space.check(levels, shape)
        if self.domain is not None:
            self.domain.check_shape(shape)
            self.domain.check_label(cond)

    def __call__(self, x, level, cond, state, key):
        block, i, index = self.space.place(level, len(x))
        label = network_condition(self.domain, cond)
        a, b, state = self.step(self.params, block, x[index], i, state, label, self.temperature)
        a, b = unless_unknown(self.domain, label, (a, b))
        return PatchPrediction(x, b, a, in_order(block, i + 1, len(x)), self.space), state

    def label(self, cond: Any) -> Any:
        """Return the condition as the network gets it.

        Raises:
          Refused: no label where the flow needs one.
        """
        if self.domain is not None and cond is None:
            self.domain.check_label(cond)
        return network_condition(self.domain, cond)

    def encode(self, x: Any, cond: Any = None) -> tuple[Any, Any]:
        """Return (z (T, C), log|det dz/dx|) of one sample x (T, C), by one network call per block.

        Raises:
          Refused: a sample of another shape, a label that the flow does not have.
        """
        if self.domain is not None:
            self.domain.check_shape(jnp.shape(x))
        label = self.label(cond)
        found = encode(self.apply, self.params, self.blocks, x, label, self.temperature)
        return unless_unknown(self.domain, label, found)

    def log_prob(self, x: Any, cond: Any = None) -> Any:
        """Return log p(x | cond) of one sample (T, C), in nats, normalised."""
        z, log_det = self.encode(x, cond)
        return log_det - 0.5 * jnp.sum(z**2) - 0.5 * z.size * jnp.log(2 * jnp.pi)


def encode(apply: Callable, params: Any, blocks: int, x: Any, label: Any, temperature: Any = 1.0) -> tuple[Any, Any]:
    """Return (z, log|det dz/dx|) of patches x (T, C); the arguments are fields of `AutoregressiveFlow`."""
    log_det = jnp.zeros((), x.dtype)
    for block in range(blocks):
        x = x if block % 2 == 0 else x[::-1]
        a, b = (shift(c) for c in apply(params, block, x, label, temperature))
        x, log_det = (x - b) * jnp.exp(-a), log_det - jnp.sum(a)
        x = x if block % 2 == 0 else x[::-1]
    return x, log_det


def shift(rows: Any) -> Any:
    """Move row i to row i + 1, the patch that it transforms. Row 0 becomes 0: the first patch stays as it is."""
    return jnp.concatenate([jnp.zeros_like(rows[:1]), rows[:-1]])
