"""From a network (any pure function) to a denoiser or a noisy classifier."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax._typing import Array, Float
from guidance_jax.core import Denoiser, Guide, Level, converted, function, log_softmax, pytree, static
from guidance_jax.models import parameterizations
from guidance_jax.models.domain import Domain, network_condition
from guidance_jax.models.parameterizations import Parameterization


class Parametrized:
    """What holds the parameters of a network. `functions` names the fields that call it: the ledger counts those."""

    params: Any
    domain: Any
    functions: ClassVar[tuple[str, ...]] = ("apply",)

    def __repr__(self):
        size = sum(np.size(a) for a in jax.tree.leaves(self.params))
        return f"{type(self).__name__}({size:,} parameters, {self.domain})"


@pytree
class Network(Parametrized, Denoiser):
    """A denoiser from a pure function `apply(params, x, t, cond) -> output`, written for one sample.

    A domain without classes keeps `cond` from the network, so that an unconditional model can stand beside a
    classifier that needs the label. One network call.

    Attributes:
      params: a pytree of arrays; they are leaves, so EMA weights or another checkpoint of the same shape run the same
        program.
      apply: the function; x of shape (*event), t the clock of the schedule (`level.t`) unless the parameterization
        says otherwise (EDM), cond one sample's condition. `output` has the shape of x, or twice its channels.
      parameterization: what the output means, see `guidance_jax.parameterizations`.
      domain: what it was trained for; without one, nothing is checked.
      perturbation: what `perturbed` sets, given to `apply` as the argument of that name; None to give none.

    Raises:
      Refused: samples, labels or levels that `domain` does not allow.
    """

    params: Any
    apply: Callable = static()
    parameterization: Parameterization = static(default=parameterizations.eps)
    domain: Domain | None = static(default=None)
    perturbation: Any = None

    def __call__(self, x, level, cond, state, key):
        if self.domain is not None:
            self.domain.check_shape(x.shape)
        cond = network_condition(self.domain, cond)
        options = {} if self.perturbation is None else {"perturbation": self.perturbation}
        output = self.apply(self.params, *self.parameterization.inputs(x, level), cond, **options)
        return self.parameterization.predict(output.astype(x.dtype), x, level), state


@pytree
class Function(Denoiser):
    """A denoiser from any function `f(x, level, cond) -> output`; by default the output is the clean sample x0.

    Attributes:
      f: the function, of one sample x (*event) and a `Level`.
      parameterization: what the output means.
    """

    f: Any = converted(function)
    parameterization: Parameterization = static(default=parameterizations.x0)

    def __call__(self, x, level, cond, state, key):
        return self.parameterization.predict(self.f(x, level, cond), x, level), state


@pytree
class NoisyClassifier(Parametrized, Guide):
    """log p(y | x_t) from a pure function `apply(params, x, t) -> logits (num_classes,)`, written for one sample.

    Attributes:
      params: a pytree of arrays.
      apply: the function; for tokens it takes integers (L,) and, for `TAG`, one-hot vectors (L, states).
      domain: what it was trained for; without one, nothing is checked.

    Raises:
      Refused: samples, labels or levels that `domain` does not allow.
    """

    params: Any
    apply: Callable = static()
    domain: Domain | None = static(default=None)

    def logits(self, x: Any, level: Level) -> Float[Array, " classes"]:
        """Unnormalised log p(. | x_t)."""
        return self.apply(self.params, x, level.t)

    def log_prob(self, x: Any, level: Level, cond: Any) -> Float[Array, ""]:
        """log p(cond | x_t), in nats, float32 or better whatever the network's type."""
        return log_softmax(self.logits(x, level))[jnp.asarray(cond)]
