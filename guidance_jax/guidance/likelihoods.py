"""Guides of clean samples, log p(cond | x0) in nats, for methods that evaluate the clean estimate.

Any function f(x0, level, cond) can be such a guide too.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import (
    Guide,
    Refused,
    as_guide,
    concrete,
    converted,
    function,
    log_softmax,
    norm,
    pytree,
    quotient,
    read_entry,
    static,
)
from guidance_jax.models.adapters import known_part, part_of
from guidance_jax.models.batching import call_network
from guidance_jax.models.domain import Domain
from guidance_jax.models.network import Parametrized
from guidance_jax.operators.base import as_operator, check_measurement, check_operator, residual_of


@pytree
class GaussianLikelihood(Guide):
    """Guide by a measurement y with Gaussian noise: log N(y; A x0, std^2 I), which is -|y - A x0|^2 / (2 std^2).

    Constants are left out; if std is a function of the level, -dim log std is added. A std that grows with the noise
    accounts for the uncertainty of the clean estimate. Score-based data assimilation (Rozet & Louppe 2023, arXiv
    2306.10574) is `std=lambda level: jnp.sqrt(s**2 + gamma * level.ratio**2)`.

    Attributes:
      operator: A, an `Operator` or any function of one sample, linear or not.
      std: the standard deviation of the measurement noise: a number, an array with one number per entry of y, or a
        function of the level.
      observed: which part of `cond` is the measurement y: a function of `cond`, the name of an entry, or None for all.

    Raises:
      Refused: a measurement of another shape than the operator gives or with numbers that are not finite, a std that is
        not positive.
    """

    operator: Any = converted(as_operator)
    std: Any
    observed: Callable | str | None = static(default=None)

    clean = True

    def check(self, levels, shape, cond):
        check_operator(self, self.operator, shape)
        std = self.std
        if callable(std):
            std = std(levels.at(np.asarray(levels.alpha) > 0)) if concrete(levels) else 1.0
        check_measurement(self, known_part(cond, self.observed), std)

    def log_prob(self, x, level, cond):
        residual = residual_of(self.operator, x, part_of(cond, self.observed))
        if not callable(self.std):
            return -0.5 * jnp.sum((residual / self.std) ** 2)
        std = self.std(level)
        return -0.5 * jnp.sum((residual / std) ** 2) - jnp.sum(jnp.log(jnp.broadcast_to(std, residual.shape)))


@pytree
class Decoded(Guide):
    """Guide by the decoded sample, log p(cond | decode(x)), in diffusion of latents.

    Attributes:
      guide: any `Guide` of clean samples, or f(x, level, cond) -> scalar.
      decode: a function of one sample, such as an autoencoder's decoder or a generator.

    Raises:
      Refused: decoded samples or conditions that `guide` does not take.
    """

    guide: Any = converted(as_guide)
    decode: Any = converted(function)

    clean = True

    def check(self, levels, shape, cond):
        made = jax.eval_shape(self.decode, jax.ShapeDtypeStruct(shape, jnp.float32))
        self.guide.check(levels, made.shape, cond)

    def log_prob(self, x, level, cond):
        return self.guide.value(self.decode(x), level, cond)


@pytree
class CleanClassifier(Parametrized, Guide):
    """Guide by any classifier of clean samples, log p(y | x0): `apply(params, x0) -> logits (num_classes,)`.

    Attributes:
      params: the parameters of the classifier, a pytree of arrays.
      apply: the classifier, a function of one sample.
      domain: the shape of a sample and the number of classes, which a model has to fit; None for no such check.

    Raises:
      Refused: samples or labels that `domain` does not allow.
    """

    params: Any
    apply: Callable = static()
    domain: Domain | None = static(default=None)

    clean = True

    def log_prob(self, x, level, cond):
        return read_entry(log_softmax(call_network(self.apply, False, self.params, x)), cond)


@pytree
class Similarity(Guide):
    """Guide by the similarity of two encodings, as in CLIP guidance: cos(image(x0), text(cond)) / temperature.

    Attributes:
      image: the image encoder, any function from one sample to a vector (d,).
      text: the text encoder, any function from `cond` to a vector (d,); the identity if `cond` is an embedding.
      temperature: the number by which the similarity is divided.
      spherical: whether to use k-diffusion's -2 arcsin^2(|u - v| / 2) of the normalised vectors instead of the cosine.

    Raises:
      Refused: encoders that give vectors of different lengths.
    """

    image: Any = converted(function)
    text: Any = converted(function)
    temperature: Any = 1.0
    spherical: bool = static(default=False)

    clean = True

    def log_prob(self, x, level, cond):
        u, v = self.image(x), self.text(cond)
        if jnp.shape(u) != jnp.shape(v):
            raise Refused(f"the encoders must return vectors of the same shape, got {jnp.shape(u)} and {jnp.shape(v)}")
        u, v = quotient(u, norm(u)), quotient(v, norm(v))
        if not self.spherical:
            return jnp.sum(u * v) / self.temperature
        return -2 * jnp.arcsin(jnp.minimum(norm(u - v) / 2, 1 - 1e-6)) ** 2 / self.temperature
