"""The classifier that a conditional generative model already is: p(y | x_t) from its own denoisers.

The gradient is the difference of two scores (Ho & Salimans 2022, arXiv 2207.12598, section 3.2). The value follows from
the pointwise I-MMSE relation (Kong et al. 2023, arXiv 2302.03792, eq. 8; Li et al. 2023, 2303.16203, use the bound):
with y = x_t / alpha, noised further by delta n, and e the error of the best guess of y from that,

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
    """A noisy classifier from a model trained with conditioning dropout: a guide (`score`) and a measure (`log_prob`).

    As a guide of `Unconditional(model, null)` it is CFG, exactly. `log_prob` costs `points` `draws` (classes + 1)
    calls; its noise is fixed by `seed` and shared by all classes. It is exact for exact models up to that Monte Carlo
    error and the range of noise-to-signal ratios.

    Attributes:
      model: a conditional denoiser of images or vectors.
      null: its null condition.
      schedule: the one whose clock the model knows; the levels must be on it.
      log_prior: log p(y) up to a constant, (classes,); 0 where they are equally likely.
      num_classes: how many there are; None to ask the model.
      points: noise-to-signal ratios of the integral.
      draws: noises a point.
      lo: the least ratio that is added.
      hi: the largest.
      seed: of the noises.

    Raises:
      Refused: a model that does not say how many classes it has, where `num_classes` does not either; levels, or a
        model, of another schedule.
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
        """How many labels there are."""
        own = self.num_classes or self.model.num_classes
        if own is None:
            raise Refused("the model does not say how many classes it has, got num_classes=None; write num_classes=10")
        return int(own)

    def check(self, levels, shape, cond):
        need(self, self.model, Denoiser, "the model")
        check_space(self, self.model.space)
        self._check_clock(levels)
        self.model.check(levels, shape, cond)
        self.model.check(levels, shape, self.null)

    def _check_clock(self, level: Level) -> None:
        self.schedule.check(level, "ImplicitClassifier adds noise on")
        own = None if self.domain is None else self.domain.schedule
        if own is not None and own != self.schedule:
            raise Refused(f"ImplicitClassifier has {self.schedule}, the model was trained on {own}; pass that")

    def _estimate(self, x, level, cond):
        return self.model(x, level, cond, self.model.init(x), jax.random.key(self.seed))[0].x0

    def score(self, x: Float[Array, "*event"], level: Level, cond: Any) -> Float[Array, "*event"]:
        """grad_x log p(label | x_t) = (alpha / sigma^2) (D_c - D_u); one call with both conditions."""
        state = stack_states(self.model.init(x))
        c, u, _ = both(self.model, x, level, cond, self.null, state, jax.random.key(self.seed))
        return level.alpha / level.sigma**2 * (c.x0 - u.x0)

    def log_posterior(self, x: Float[Array, "*event"], level: Level) -> Float[Array, " classes"]:
        """log p(. | x_t) in nats, estimated; at a clean level too."""
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
        """log p(cond | x_t), in nats."""
        return read_entry(self.log_posterior(x, level), cond)
