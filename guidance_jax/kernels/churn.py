"""Churn, the stochastic sampler of Karras et al. 2022 (arXiv 2206.00364, Algorithm 2), around any solver.

r' = (1 + gamma) r          where lo <= r <= hi, with r = sigma / alpha
x' = (alpha' / alpha) x + alpha' noise sqrt(r'^2 - r^2) z
x_s = the step of the inner kernel from x' at r' to s
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import GaussianDiffusion, KernelWrapper, Level, Refused, concrete, pytree, static
from guidance_jax.kernels.corrector import not_of_a_population
from guidance_jax.kernels.recur import renoise
from guidance_jax.schedules import Schedule


@pytree
class Churn(KernelWrapper):
    """Add noise to the sample before every step of `inner`, which then steps down from the raised level.

    Fresh noise corrects the errors of earlier steps. The kernel makes no network call of its own; gamma 0 is `inner`.
    Where noise is added, the history of a multistep solver starts anew. EDM's settings for n steps are
    `gamma=min(churn / n, 2**0.5 - 1)`; AlphaFold 3's are `gamma=0.8, lo=1.0, noise=1.003`, with the step scale 1.5 as
    `Tempered(model, 1.5)` and a random rotation as `augment`.

    Attributes:
      inner: a kernel of images or vectors, not of populations.
      schedule: the schedule of the levels; it gives the network's clock at the raised level.
      gamma: the share by which sigma / alpha is raised, 0 or more.
      lo, hi: the range of sigma / alpha within which noise is added.
      noise: a factor of the added noise, slightly above 1 in practice.
      augment: f(key, x) -> x, applied before every step, such as a random rotation; None for none.

    Raises:
      Refused: a negative gamma; levels on another schedule; raised levels that the schedule does not have; tokens; a
        population, whose weights would not account for the added noise.
    """

    inner: Any
    schedule: Schedule = static()
    gamma: Any
    lo: Any = 0.0
    hi: Any = float("inf")
    noise: Any = 1.0
    augment: Callable | None = static(default=None)

    takes = GaussianDiffusion

    def check(self, levels, shape, cond):
        super().check(levels, shape, cond)
        not_of_a_population(self)
        self.schedule.check(levels, "Churn raises levels of")
        if concrete(self.gamma) and np.any(np.asarray(self.gamma) < 0):
            raise Refused(f"gamma of Churn must be 0 or more, got {self.gamma}; write gamma=0.2")
        if all(concrete(a) for a in (levels, self.gamma, self.lo, self.hi)):
            self._check_raised(levels)

    def _check_raised(self, levels: Level) -> None:
        with jax.ensure_compile_time_eval():
            wanted = np.where(self._inside(levels), levels.ratio * (1 + self.gamma), 0)
            got = np.asarray(self._raise(levels).ratio)
        off = (wanted > 0) & (np.abs(got - wanted) > 0.01 * wanted)
        if off.any():
            most = float(np.asarray(levels.ratio)[off].min())
            raise Refused(
                f"Churn raises sigma / alpha {most:.4g} to {float(wanted[off].min()):.4g}, which {self.schedule} does "
                f"not have; write hi={0.999 * most:.4g}"
            )

    def _inside(self, t: Level) -> Any:
        return (t.alpha > 0) & (t.sigma > 0) & (self.lo <= t.ratio) & (t.ratio <= self.hi)

    def _raise(self, t: Level) -> Level:
        on = self._inside(t) & (jnp.asarray(self.gamma) > 0)
        ratio = jnp.where(on, t.ratio, 1) * (1 + self.gamma)
        raised = self.schedule(self.schedule.at_log_snr(-2 * jnp.log(ratio)))
        return Level(*(jnp.where(on, a, b).astype(jnp.result_type(b)) for a, b in zip(raised, t, strict=True)))

    def __call__(self, carry, t, s, cond, key):
        noise_key, augment_key, inner_key = jax.random.split(key, 3)
        x = carry.x if self.augment is None else self.augment(augment_key, carry.x)
        raised = self._raise(t)
        on = raised.sigma * t.alpha > t.sigma * raised.alpha  # the ratio of a level without signal is not finite
        here = t._replace(alpha=jnp.where(on, t.alpha, 1))
        x = jnp.where(on, renoise(noise_key, x, here, raised, self.noise), x)
        history = jax.tree.map(
            lambda new, old: jnp.where(on, new, old), self.inner.init(x).solver_state, carry.solver_state
        )
        return self.inner(carry._replace(x=x, solver_state=history), raised, s, cond, inner_key)
