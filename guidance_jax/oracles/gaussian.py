"""Exact models: every marginal, class posterior and guided target in closed form, at every noise level.

They are denoisers (use them as `model`), classifiers (`log_posterior`) and samplers. `bias` compares the samples of a
method with the target p(x) p(y|x)^scale itself.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax._typing import Array, Float, Key
from guidance_jax.core import CLEAN, Denoiser, Level, Prediction, Refused, concrete, nan_unless, normal, pytree
from guidance_jax.oracles.energy import energy_distance


@pytree
class Gaussian(Denoiser):
    """The exact denoiser of vectors with distribution N(mean, covariance), on any schedule.

    E[x0 | x_t] = mean + alpha C (alpha^2 C + sigma^2 I)^{-1} (x_t - alpha mean)

    Attributes:
      mean: the mean, (d,).
      covariance: the covariance, (d, d).

    Raises:
      Refused: a covariance of another shape, which would be broadcast to a wrong one.
    """

    mean: Any
    covariance: Any

    def __post_init__(self):
        d = jnp.shape(self.mean)
        if jnp.shape(self.covariance) != d + d or len(d) != 1:
            raise Refused(
                f"a Gaussian needs a mean (d,) and a covariance (d, d), got {d} and {jnp.shape(self.covariance)}; "
                "write covariance=jnp.diag(variances)"
            )

    def log_prob(self, x: Float[Array, " d"], level: Level = CLEAN) -> Float[Array, ""]:
        """Return log p(x_t), in nats."""
        spread = level.alpha**2 * self.covariance + level.sigma**2 * jnp.eye(len(self.mean))
        return jax.scipy.stats.multivariate_normal.logpdf(x, level.alpha * self.mean, spread)

    def __call__(self, x, level, cond, state, key):
        spread = level.alpha**2 * self.covariance + level.sigma**2 * jnp.eye(len(self.mean))
        gain = jnp.linalg.solve(spread, x - level.alpha * self.mean)
        x0 = self.mean + level.alpha * jnp.matmul(self.covariance, gain, precision="highest")
        return Prediction.split(x, x0, level), state

    def condition(self, operator: Float[Array, "m d"], y: Float[Array, " m"], std: Any) -> "Gaussian":
        """Return the exact posterior given y = operator x + std z."""
        matmul = partial(jnp.matmul, precision="highest")
        cross = matmul(self.covariance, operator.T)
        noise = jnp.asarray(std) ** 2 * jnp.eye(len(y))
        gain = jnp.linalg.solve(matmul(operator, cross) + noise, cross.T).T
        mean = self.mean + matmul(gain, y - matmul(operator, self.mean))
        return Gaussian(mean, self.covariance - matmul(gain, cross.T))

    def sample(self, key: Key[Array, ""], n: int) -> Float[Array, "n d"]:
        """Return `n` exact draws."""
        return jax.random.multivariate_normal(key, self.mean, self.covariance, (n,))


class Bias(NamedTuple):
    """The distance of samples from a target, and the distance that as many exact samples would have.

    Attributes:
      distance: the energy distance between the samples and exact draws.
      floor: the largest of several distances between two sets of exact draws.
    """

    distance: float
    floor: float

    def __str__(self):
        verdict = "within" if self.distance <= self.floor else "above"
        return f"energy distance {self.distance:.2e}, {verdict} the Monte Carlo floor {self.floor:.2e}"


@pytree
class GaussianMixture(Denoiser):
    """A mixture of isotropic Gaussians with class labels: exact denoiser, classifier and guided target.

    As a denoiser it takes a label; the label `num_classes`, or None, means the unconditional model. Components of one
    class share a label; by default each component is a class of its own.

    Attributes:
      means: the means, (components, d).
      std: the standard deviation, scalar or (components,).
      weights: the weights, (components,), positive; they need not sum to one.
      classes: the class of each component, (components,) integers; None for one class each.

    Raises:
      Refused: samples of another dimension, labels that it does not have.
    """

    means: Any
    std: Any
    weights: Any
    classes: Any = None

    @property
    def num_classes(self) -> int | None:
        if self.classes is None:
            return len(self.means)
        return int(np.max(np.asarray(self.classes))) + 1 if concrete(self.classes) else None

    @property
    def null_label(self) -> Any:
        """The label of the unconditional model."""
        return len(self.means) if self.classes is None else jnp.max(self.classes) + 1

    def _labels(self):
        return jnp.arange(len(self.means)) if self.classes is None else self.classes

    def _spread(self, level):
        return level.alpha**2 * jnp.broadcast_to(self.std, self.weights.shape) ** 2 + level.sigma**2

    def _log_joint(self, x, level):
        """Return log p(component, x_t), (components,)."""
        spread = self._spread(level)
        square = jnp.sum((x - level.alpha * self.means) ** 2, -1)
        log_normal = -0.5 * (square / spread + x.shape[-1] * jnp.log(2 * jnp.pi * spread))
        return jnp.log(self.weights / jnp.sum(self.weights)) + log_normal

    def _chosen(self, label):
        """Return which components belong to `label`; all for None and the null label."""
        if label is None:
            return jnp.ones(len(self.means), bool)
        return (self._labels() == label) | (jnp.asarray(label) == self.null_label)

    def check(self, levels, shape, cond):
        if tuple(shape) != self.means.shape[1:]:
            raise Refused(f"the mixture is defined on vectors of shape {self.means.shape[1:]}, got {tuple(shape)}")
        if cond is not None and self.num_classes is not None and concrete(cond):
            values = np.asarray(cond)
            if (values < 0).any() or (values > self.num_classes).any():
                raise Refused(
                    f"labels go from 0 to {self.num_classes - 1} (or {self.num_classes}, unconditional), got "
                    f"{values[(values < 0) | (values > self.num_classes)].flat[0]}; use one of those"
                )

    def __call__(self, x, level, cond, state, key):
        log_joint = jnp.where(self._chosen(cond), self._log_joint(x, level), -jnp.inf)
        gain = level.alpha * jnp.broadcast_to(self.std, self.weights.shape) ** 2 / self._spread(level)
        each = self.means + gain[:, None] * (x - level.alpha * self.means)
        return Prediction.split(x, jnp.sum(jax.nn.softmax(log_joint)[:, None] * each, 0), level), state

    def log_prob(self, x: Float[Array, " d"], level: Level = CLEAN, label: Any = None) -> Float[Array, ""]:
        """Return log p(x_t), or log p(x_t | label), in nats."""
        chosen = self._chosen(label)
        log_joint = jnp.where(chosen, self._log_joint(x, level), -jnp.inf)
        log_prior = jnp.log(jnp.sum(jnp.where(chosen, self.weights, 0)) / jnp.sum(self.weights))
        return jax.nn.logsumexp(log_joint) - log_prior

    def log_posterior(self, x: Float[Array, " d"], level: Level, label: Any) -> Float[Array, ""]:
        """Return log p(label | x_t) in nats, the exact noisy classifier; 0 for the null label, which is any class."""
        log_joint = self._log_joint(x, level)
        chosen = self._chosen(label)
        own = jax.nn.logsumexp(jnp.where(chosen, log_joint, -jnp.inf))
        return nan_unless(jnp.any(chosen), own - jax.nn.logsumexp(log_joint))

    def log_tilted(self, x: Float[Array, " d"], label: Any, scale: Any) -> Float[Array, ""]:
        """Return the log of the guided target p(x) p(label | x)^scale at clean x, not normalised."""
        return self.log_prob(x) + scale * self.log_posterior(x, CLEAN, label)

    def sample(self, key: Key[Array, ""], n: int, label: Any = None) -> Float[Array, "n d"]:
        """Return `n` exact draws of p(x), or of p(x | label)."""
        component_key, noise_key = jax.random.split(key)
        log_weights = jnp.where(self._chosen(label), jnp.log(self.weights), -jnp.inf)
        component = jax.random.categorical(component_key, log_weights, shape=(n,))
        std = jnp.broadcast_to(self.std, self.weights.shape)[component]
        means = self.means[component]
        return means + std[:, None] * normal(noise_key, means)

    def sample_tilted(self, key: Key[Array, ""], n: int, label: int, scale: float) -> np.ndarray:
        """Return `n` exact draws of the guided target p(x) p(label | x)^scale, by rejection on the host.

        Proposals from p(x | label) are kept with probability p(label | x)^(scale - 1). For scale < 1, proposals from
        p(x) are kept with probability p(label | x)^scale.

        Raises:
          Refused: a negative scale, or a target so rare that 1,000 rounds of proposals do not give `n` draws.
        """
        if scale < 0:
            raise Refused(f"rejection needs a scale >= 0, got {scale}; use log_tilted with your own sampler")
        kept: list[np.ndarray] = []
        proposal, power = (None, scale) if scale < 1 else (label, scale - 1)
        log_accept = jax.jit(jax.vmap(lambda x: power * self.log_posterior(x, CLEAN, label)))
        for round_key in jax.random.split(key, 1000):
            proposal_key, accept_key = jax.random.split(round_key)
            x = self.sample(proposal_key, n, proposal)
            accept = jnp.log(jax.random.uniform(accept_key, (n,))) < log_accept(x)
            kept.append(np.asarray(x)[np.asarray(accept)])
            if sum(map(len, kept)) >= n:
                return np.concatenate(kept)[:n]
        raise Refused(
            f"p(x) p({label}|x)^{scale} is too rare for rejection: {sum(map(len, kept))} of {n} draws; use a smaller "
            "scale"
        )

    def bias(self, key: Key[Array, ""], samples: Any, label: int, scale: float, repeats: int = 5) -> Bias:
        """Return the energy distance of `samples` (n, d) from the guided target p(x) p(label | x)^scale.

        The floor is the largest of `repeats` distances between two sets of n exact draws. Samples of the target itself
        are below it with probability about repeats / (repeats + 1).
        """
        n = len(samples)
        draws = [self.sample_tilted(k, n, label, scale) for k in jax.random.split(key, repeats + 1)]
        floor = max(float(energy_distance(draws[0], other)) for other in draws[1:])
        return Bias(float(energy_distance(draws[0], samples)), floor)
