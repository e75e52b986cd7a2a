"""From a network (any pure function) to a denoiser or a noisy classifier."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax import parameterizations
from guidance_jax._typing import Array, Float
from guidance_jax.core import Level, check, function, pytree, static
from guidance_jax.domain import Domain, told
from guidance_jax.parameterizations import Parameterization


@pytree
class Network:
    """A denoiser from a pure function `apply(params, x, t, cond) -> output`, written for one sample.

    `params` are leaves: EMA weights or another checkpoint of the same shape run the same program. `t` is the clock of
    the schedule (`level.t`) unless the parameterization says otherwise (EDM). A domain without classes keeps `cond`
    from the network, so that an unconditional model can stand beside a classifier that needs the label.
    """

    params: Any
    apply: Callable = static()
    parameterization: Parameterization = static(default=parameterizations.eps)
    domain: Domain | None = static(default=None)
    perturbation: Any = None  # what `perturbed` sets, given to `apply` as the argument of that name

    def __repr__(self):
        size = sum(np.size(a) for a in jax.tree.leaves(self.params))
        return f"Network({size:,} parameters, {self.parameterization}, {self.domain})"

    def init(self, x):
        return ()

    def check(self, levels, shape, cond):
        check(self.domain, levels, shape, cond)

    def __call__(self, x, level, cond, state, key):
        if self.domain is not None:
            self.domain.check_shape(x.shape)
        cond = told(self.domain, cond)
        options = {} if self.perturbation is None else {"perturbation": self.perturbation}
        output = self.apply(self.params, *self.parameterization.inputs(x, level), cond, **options)
        return self.parameterization.predict(output.astype(x.dtype), x, level), state


class Perturbation(NamedTuple):
    """How a network is made worse on purpose: traced numbers, 0 for not at all.

    Attributes:
      attention: the share of every self-attention map replaced by the identity (PAG: 1).
      blur: the standard deviation, in pixels of the feature map, by which attention queries are blurred (SEG).
      skip: the share of the middle blocks' contribution that is left out (skipped layers: 1).
    """

    attention: Any = 0.0
    blur: Any = 0.0
    skip: Any = 0.0


def perturbed(model: Network, attention: Any = 0.0, blur: Any = 0.0, skip: Any = 0.0) -> Network:
    """A weak version of `model` for `Autoguidance` or `Perturbed`: the same parameters, worse layers.

    Its `apply` must take `perturbation=`, as `ADMUNet` does. Without attention in the network, `attention` and `blur`
    have nothing to act on and guidance with it is none.
    """
    return dataclasses.replace(model, perturbation=Perturbation(attention, blur, skip))


@pytree
class Function:
    """A denoiser from any function `f(x, level, cond) -> output`; by default the output is the clean sample x0."""

    f: Any
    parameterization: Parameterization = static(default=parameterizations.x0)

    def __post_init__(self):
        object.__setattr__(self, "f", function(self.f))

    def init(self, x):
        return ()

    def __call__(self, x, level, cond, state, key):
        return self.parameterization.predict(self.f(x, level, cond), x, level), state


def log_softmax(logits: Float[Array, "*positions classes"]) -> Float[Array, "*positions classes"]:
    """log p of all classes, or tokens, in float32 or better whatever the network's type."""
    return jax.nn.log_softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))


@pytree
class NoisyClassifier:
    """log p(y | x_t) from a pure function `apply(params, x, t) -> logits (num_classes,)`, written for one sample.

    For tokens `apply` takes integers (L,) and, for `TAG`, one-hot vectors (L, states).
    """

    params: Any
    apply: Callable = static()
    domain: Domain | None = static(default=None)

    def __repr__(self):
        size = sum(np.size(a) for a in jax.tree.leaves(self.params))
        return f"NoisyClassifier({size:,} parameters, {self.domain})"

    def check(self, levels, shape, cond):
        check(self.domain, levels, shape, cond)

    def logits(self, x: Any, level: Level) -> Float[Array, " classes"]:
        """Unnormalised log p(. | x_t)."""
        return self.apply(self.params, x, level.t)

    def log_prob(self, x: Any, level: Level, label: Any) -> Float[Array, ""]:
        """log p(label | x_t), in nats, float32 or better whatever the network's type."""
        return log_softmax(self.logits(x, level))[label]
