"""The implicit classifier of a conditional generative model: p(c | x_t) from the model's own predictions.

The gradient is the difference of two scores (Ho & Salimans 2022, arXiv 2207.12598, section 3.2). The value follows from
the pointwise I-MMSE relation (Kong et al. 2023, arXiv 2302.03792, eq. 8; Li et al. 2023, 2303.16203, use the bound).
Let y = x_t / alpha, and add noise delta n to y. The best estimate of y from this noisier point has the error e_c given
c, and e_u without c. Then

    log p(x_t | c) - log p(x_t) = integral over log delta of E[|e_u|^2 - |e_c|^2] / delta^2
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax._typing import Array, Float
from guidance_jax.core import (
    Denoiser,
    GaussianDiffusion,
    Guide,
    Level,
    Refused,
    check_space,
    need,
    pytree,
    read_entry,
    static,
)
from guidance_jax.guidance.base import both, stack_states
from guidance_jax.schedules import Schedule


@pytree
class ImplicitClassifier(Guide):
    """Use a model trained with conditioning dropout as a classifier of noisy samples.

    `score` guides: `Unconditional(model, null)` guided by it is exactly CFG. `log_prob` measures log p(c | x_t), at a
    cost of `points` `draws` (classes + 1) network calls. Its noise is fixed by `seed` and is the same for all classes.
    For an exact model its only errors are the Monte Carlo error and that of the finite grid of ratios.

    Attributes:
      model: a conditional denoiser of images or vectors.
      null: the null condition of `model`.
      schedule: the schedule that the model was trained on; the levels must be on it.
      log_prior: (classes,), log p(c) up to a constant; 0 for equally likely classes.
      num_classes: the number of classes; None takes that of the model.
      points: the number of noise-to-signal ratios delta in the integral.
      draws: the number of noise draws per ratio.
      lo: the smallest delta.
      hi: the largest delta.
      seed: the seed of the noise.

    Raises:
      Refused: `num_classes=None` with a model that does not know its number of classes; levels or a model on another
        schedule.
    """

    model: Any
    null: Any
    schedule: Schedule = static()
    log_prior: Any = 0.0
    num_classes: int | None = static(default=None)
    points: int = static(default=32)
    draws: int = static(default=4)
    lo: float = static(default=0.02)
    hi: float = static(default=30.0)
    seed: int = static(default=0)

    takes = GaussianDiffusion

    @property
    def domain(self):
        return self.model.domain

    @property
    def classes(self) -> int:
        """The number of classes."""
        own = self.num_classes or self.model.num_classes
        if own is None:
            raise Refused("the model does not state its number of classes, got num_classes=None; write num_classes=10")
        return int(own)

    def check(self, levels, shape, cond):
        need(self, self.model, Denoiser, "the model")
        check_space(self, self.model.space)
        self._check_clock(levels)
        self.model.check(levels, shape, cond)
        self.model.check(levels, shape, self.null)

    def _check_clock(self, level: Level) -> None:
        self.schedule.check(level, "ImplicitClassifier adds noise by")
        own = None if self.domain is None else self.domain.schedule
        if own is not None and own != self.schedule:
            raise Refused(
                f"ImplicitClassifier got schedule={self.schedule}, but the model was trained on {own}; write "
                f"schedule={own}"
            )

    def _estimate(self, x, level, cond):
        return self.model(x, level, cond, self.model.init(x), jax.random.key(self.seed))[0].x0

    def score(self, x: Float[Array, "*event"], level: Level, cond: Any) -> Float[Array, "*event"]:
        """Return grad_x log p(cond | x_t) = (alpha / sigma^2) (D_c - D_u), by one call with both conditions."""
        state = stack_states(self.model.init(x))
        c, u, _ = both(self.model, x, level, cond, self.null, state, jax.random.key(self.seed))
        return level.alpha / level.sigma**2 * (c.x0 - u.x0)

    def log_posterior(self, x: Float[Array, "*event"], level: Level) -> Float[Array, " classes"]:
        """Estimate log p(c | x_t) of every class c, in nats. `level` may be the clean level."""
        self._check_clock(level)
        labels = jnp.append(jnp.arange(self.classes), jnp.asarray(self.null))
        y, here = x / level.alpha, level.sigma / level.alpha
        log_delta = jnp.linspace(jnp.log(self.lo), jnp.log(self.hi), self.points)

        def errors(inputs):
            log_delta, key = inputs
            delta = jnp.exp(log_delta)
            ratio = jnp.sqrt(here**2 + delta**2)
            noisier = self.schedule(self.schedule.at_log_snr(-2 * jnp.log(ratio)))

            def one(key):
                n = jax.random.normal(key, x.shape, x.dtype)
                at = y + delta * n
                d = jax.vmap(lambda label: self._estimate(noisier.alpha * at, noisier, label))(labels)
                guess = at + (delta / ratio) ** 2 * (d - at)
                return jnp.sum((guess - y) ** 2, tuple(range(1, d.ndim)))

            return jnp.mean(jax.vmap(one)(jax.random.split(key, self.draws)), 0) / delta**2

        keys = jax.random.split(jax.random.key(self.seed), self.points)
        each = jax.lax.map(errors, (log_delta, keys))  # (points, classes + 1)
        evidence = jnp.trapezoid(each[:, -1:] - each[:, :-1], log_delta, axis=0)
        return jax.nn.log_softmax(evidence + self.log_prior)

    def log_prob(self, x: Float[Array, "*event"], level: Level, cond: Any) -> Float[Array, ""]:
        """Estimate log p(cond | x_t), in nats."""
        return read_entry(self.log_posterior(x, level), cond)
