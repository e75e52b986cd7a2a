"""Draws near a point, p(z) ~ L(z) q(z | centre), with L the likelihood of the measurement.

`DAPS` and `SplitGibbs` alternate such draws with the model's own sampling. For images and vectors
q = N(centre, spread^2 I); for tokens q is the uniform kernel of the level.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from guidance_jax.core import (
    GaussianDiffusion,
    Guide,
    Space,
    as_guide,
    converted,
    draw_token,
    need,
    normal,
    pytree,
    static,
)
from guidance_jax.discrete.process import Uniform
from guidance_jax.guidance.scales import strength
from guidance_jax.models.adapters import known_part, part_of
from guidance_jax.operators.base import as_operator, check_measurement, check_one_noise, check_operator, residual_of


class LikelihoodStep:
    """Base class: `draw` draws from p(z) ~ L(z) q(z | centre), or makes Markov steps that leave p invariant."""

    takes: ClassVar[type[Space]] = GaussianDiffusion

    def check(self, levels: Any, shape: tuple[int, ...], cond: Any) -> None:
        """Raise `Refused` for samples or measurements that it cannot judge."""

    def draw(self, key: Any, z: Any, centre: Any, level: Any, cond: Any, space: Any) -> Any:
        """Return the next z in `space`. `level` sets q: by its spread sigma / alpha, or its share of kept tokens."""
        raise NotImplementedError


@pytree
class ExactStep(LikelihoodStep):
    """Draw exactly for a linear measurement y = A x0 + std e, by perturbation and the operator's `solve`.

    Attributes:
      operator: A, linear.
      std: the standard deviation of the measurement noise, one number.
      observed: which part of `cond` is the measurement y: a function of `cond`, the name of an entry, or None for all.

    Raises:
      Refused: a measurement that does not fit the operator; a std that is not positive.
    """

    operator: Any = converted(as_operator)
    std: Any
    observed: Callable | str | None = static(default=None)

    def check(self, levels, shape, cond):
        check_operator(self, self.operator, shape, linear=True)
        check_measurement(self, known_part(cond, self.observed), self.std)
        check_one_noise(self, self.std)

    def draw(self, key, z, centre, level, cond, space):
        spread = level.ratio
        noise_key, spread_key = jax.random.split(key)
        near = centre + spread * normal(spread_key, centre)
        residual = residual_of(self.operator, near, part_of(cond, self.observed))
        residual = residual + self.std * normal(noise_key, residual)
        return near + self.operator.solve(self.operator.adjoint(residual, near), (self.std / spread) ** 2)

    def draw_with_covariance(self, key: Any, centre: Any, covariance: Any, cond: Any) -> Any:
        """Draw from N(centre, covariance) times the likelihood; `covariance` is a dense matrix, for small samples."""
        noise_key, spread_key = jax.random.split(key)
        floor = 1e-6 * jnp.trace(covariance) / len(covariance) * jnp.eye(len(covariance), dtype=covariance.dtype)
        root = jnp.linalg.cholesky(covariance + floor)
        push = jnp.matmul(root, normal(spread_key, centre).ravel(), precision="highest")
        near = centre + push.reshape(centre.shape)
        residual = residual_of(self.operator, near, part_of(cond, self.observed))
        residual = (residual + self.std * normal(noise_key, residual)).ravel()
        basis = jnp.eye(centre.size, dtype=centre.dtype).reshape(-1, *centre.shape)
        a = jax.vmap(lambda e: self.operator(e).ravel())(basis).T
        with jax.default_matmul_precision("highest"):
            v = jnp.linalg.solve(a @ covariance @ a.T + self.std**2 * jnp.eye(len(a), dtype=a.dtype), residual)
            return near + (covariance @ (a.T @ v)).reshape(centre.shape)


@pytree
class LangevinStep(LikelihoodStep):
    """Draw by Langevin steps z + g grad log p(z) + sqrt(2 g) e, for any differentiable likelihood of clean samples.

    With `adjusted` each step is accepted or rejected, so that p(z) is invariant for any g. Without it, as DAPS
    publishes it, g has to be small. Each step takes one gradient of the likelihood and none of the network.

    Attributes:
      log_likelihood: a `Guide` of clean samples, or f(x0, level, cond) -> scalar.
      steps: the number of Langevin steps.
      rate: g, in units of spread^2: a number or a function of the level. Above 1 most steps are rejected.
      adjusted: whether steps are accepted or rejected (Metropolis-adjusted).

    Raises:
      Refused: whatever the likelihood refuses.
    """

    log_likelihood: Any = converted(as_guide)
    steps: int = static(default=20)
    rate: Any = 0.1
    adjusted: bool = static(default=True)

    def check(self, levels, shape, cond):
        need(self, self.log_likelihood, Guide, "the likelihood")
        self.log_likelihood.check(levels, shape, cond)

    def draw(self, key, z, centre, level, cond, space):
        spread = level.ratio
        g = strength(self.rate, level, cond, off=0.0) * spread**2

        def log_p(z):
            return self.log_likelihood.value(z, level, cond) - 0.5 * jnp.sum((z - centre) ** 2) / spread**2

        def drift(z, slope):
            return z + g * slope

        def step(carry, key):
            z, value, slope = carry
            move_key, accept_key = jax.random.split(key)
            new = drift(z, slope) + jnp.sqrt(2 * g) * normal(move_key, z)
            new_value, new_slope = jax.value_and_grad(log_p)(new)
            if not self.adjusted:
                return (new, new_value, new_slope), None
            forth, back = (jnp.sum((b - drift(a, c)) ** 2) for a, b, c in ((z, new, slope), (new, z, new_slope)))
            gain = new_value - value + (forth - back) / (4 * g)
            accept = jnp.log(jax.random.uniform(accept_key, dtype=gain.dtype)) < gain
            return jax.tree.map(lambda a, b: jnp.where(accept, a, b), (new, new_value, new_slope), carry), None

        (z, *_), _ = jax.lax.scan(step, (z, *jax.value_and_grad(log_p)(z)), jax.random.split(key, self.steps))
        return z


@pytree
class GibbsStep(LikelihoodStep):
    """Redraw one token after the other, given the others, from L(z) q(z | centre): for tokens of uniform noise.

    A sweep evaluates the likelihood once for each position and each token of the vocabulary.

    Attributes:
      log_likelihood: a `Guide` of clean tokens, or f(x0, level, cond) -> scalar; it need not be differentiable.
      sweeps: the number of sweeps over all positions.

    Raises:
      Refused: whatever the likelihood refuses.

    >>> step = GibbsStep(lambda x0, level, cond: jnp.sum(x0 == 2) * 0.5, sweeps=2)
    """

    log_likelihood: Any = converted(as_guide)
    sweeps: int = static(default=1)

    takes = Uniform

    def check(self, levels, shape, cond):
        need(self, self.log_likelihood, Guide, "the likelihood")
        self.log_likelihood.check(levels, shape, cond)

    def draw(self, key, z, centre, level, cond, space):
        tokens = jnp.arange(space.vocabulary, dtype=z.dtype)
        near = jnp.log(space.forward(level))[centre]  # log q(z | centre), (L, V)

        def site(z, inputs):
            i, key = inputs
            values = jax.vmap(lambda v: self.log_likelihood.value(z.at[i].set(v), level, cond))(tokens)
            new = draw_token(key, values + near[i])
            return z.at[i].set(new.astype(z.dtype)), None

        places = jnp.tile(jnp.arange(len(z)), self.sweeps)
        z, _ = jax.lax.scan(site, z, (places, jax.random.split(key, len(places))))
        return z
