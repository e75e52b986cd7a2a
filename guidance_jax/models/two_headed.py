"""A network with two outputs: one at its end, and an early one from an inner layer."""

from typing import Any

import jax.numpy as jnp

from guidance_jax.core import Prediction, Refused, pytree
from guidance_jax.models.batching import call_network
from guidance_jax.models.domain import network_condition, unless_unknown
from guidance_jax.models.network import Network


@pytree
class TwoHeaded(Network):
    """A `Network` whose `apply(params, x, t, cond)` returns (output, early output). As a denoiser it uses the first.

    Train it with `InternalHeads`, guide it with `guidance.Internal`. Fields as in `Network`.

    Raises:
      Refused: a function with one output, and what `Network` refuses.
    """

    def heads(self, x: Any, level: Any, cond: Any) -> tuple[Prediction, Prediction]:
        """Return (prediction, early prediction) from one network call."""
        inputs = *self.parameterization.inputs(x, level), network_condition(self.domain, cond)
        outputs = call_network(self.apply, self.batched, self.params, *inputs)
        if not isinstance(outputs, tuple) or len(outputs) != 2 or any(jnp.shape(o) != jnp.shape(x) for o in outputs):
            raise Refused(
                f"a TwoHeaded network must return two outputs of shape {jnp.shape(x)}; for one head, use Network"
            )
        outputs = unless_unknown(self.domain, cond, outputs)
        output, early = (self.parameterization.predict(o.astype(x.dtype), x, level) for o in outputs)
        return output, early

    def __call__(self, x, level, cond, state, key):
        if self.domain is not None:
            self.domain.check_shape(x.shape)
        return self.heads(x, level, cond)[0], state
