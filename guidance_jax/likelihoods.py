"""Log-likelihoods of clean samples, f(x0, level, cond) -> scalar in nats, for guides that look at the clean estimate.

Any function with those arguments is one; these are the usual ones.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from guidance_jax.core import check, function, pytree, static
from guidance_jax.domain import Domain
from guidance_jax.guidance.base import norm, quotient
from guidance_jax.network import log_softmax
from guidance_jax.operators import as_operator, measured, whole


@pytree
class GaussianLikelihood:
    """log N(y; A x0, std^2 I) up to a constant: -|y - A x0|^2 / (2 std^2). A may be any function, linear or not."""

    operator: Any
    std: Any
    observed: Callable = static(default=whole)

    def __post_init__(self):
        object.__setattr__(self, "operator", as_operator(self.operator))

    def __call__(self, x0, level, cond):
        return -0.5 * jnp.sum(measured(self.operator, x0, self.observed(cond)) ** 2) / self.std**2


@pytree
class CleanClassifier:
    """log p(y | x0) of an off-the-shelf classifier of clean samples: `apply(params, x0) -> logits (num_classes,)`.

    With a `domain` (shape, number of classes) a model that does not fit is refused.
    """

    params: Any
    apply: Callable = static()
    domain: Domain | None = static(default=None)

    def check(self, levels, shape, cond):
        check(self.domain, levels, shape, cond)

    def __call__(self, x0, level, label):
        return log_softmax(self.apply(self.params, x0))[label]


@pytree
class Similarity:
    """How well two encoders agree, as CLIP guidance uses it: cos(image(x0), text(cond)) / temperature.

    `image` and `text` are any functions to vectors of one length; `text` is the identity where `cond` already is an
    embedding. `spherical` takes k-diffusion's -2 arcsin^2(|u - v| / 2) of the normalised vectors instead of the cosine.
    """

    image: Any
    text: Any
    temperature: Any = 1.0
    spherical: bool = static(default=False)

    def __post_init__(self):
        object.__setattr__(self, "image", function(self.image))
        object.__setattr__(self, "text", function(self.text))

    def __call__(self, x0, level, cond):
        u, v = self.image(x0), self.text(cond)
        if jnp.shape(u) != jnp.shape(v):
            raise ValueError(f"the encoders must give vectors of one shape, got {jnp.shape(u)} and {jnp.shape(v)}")
        u, v = quotient(u, norm(u)), quotient(v, norm(v))
        if not self.spherical:
            return jnp.sum(u * v) / self.temperature
        return -2 * jnp.arcsin(jnp.minimum(norm(u - v) / 2, 1 - 1e-6)) ** 2 / self.temperature
