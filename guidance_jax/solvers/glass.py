"""GLASS (Holderrieth et al. 2025, arXiv 2509.25170): the true transition of a diffusion, drawn by an ODE inside a step.

Given x_t, one part of x_s is known, and the rest is a noisy observation of the clean sample:

    x_s = c x_t + A x_0 + B z,   c = alpha_t sigma_s^2 / (alpha_s sigma_t^2),   A = alpha_s - c alpha_t,
                                 B^2 = sigma_s^2 (1 - (alpha_t sigma_s / (alpha_s sigma_t))^2)

y = A x_0 + B z is drawn by the ODE of a diffusion whose data distribution is p(x_0 | x_t). Its denoiser
E[x_0 | x_t, y] is the network itself: x_t and y together are one observation, at the level of their joint precision.
"""

import jax
import jax.numpy as jnp

from guidance_jax.core import Refused, Solver, normal, pytree, static
from guidance_jax.schedules import Schedule


@pytree
class GLASS(Solver):
    """Draw x_s ~ p(x_s | x_t) of the model, multimodal or not. `DDPM` has the same mean without the spread A x_0.

    With one inner step it is `DDPM()`. With many, few large steps draw the same distribution as many small ones, and
    particles (`Steered`, `BestOf`) are as different as the model's samples. It makes `steps` network calls per step.
    It has no density, so `Twisted` and `Corrected` do not take it.

    Attributes:
      schedule: the schedule of the levels. The ODE calls the network between them.
      steps: the number of Euler steps of the ODE inside a step, 1 or more.

    Raises:
      Refused: levels on another schedule; no steps.
    """

    schedule: Schedule = static()
    steps: int = static(default=4)

    def __post_init__(self):
        if self.steps < 1:
            raise Refused(f"GLASS needs at least one inner step, got steps={self.steps}; write steps=4")

    def step(self, pred, t, s, evaluate, state, key):
        x = t.alpha * pred.x0 + t.sigma * pred.eps
        kept = t.alpha * s.sigma**2 / (s.alpha * t.sigma**2)
        clocks = jnp.linspace(0.0, 1.0, self.steps + 1, dtype=x.dtype)[1:]
        levels = self.schedule(t.t + (s.t - t.t) * clocks)
        levels = jax.tree.map(lambda a, end: a.at[-1].set(end), levels, s)  # the clean level may be off the schedule
        # y scaled to a^2 + b^2 = 1, with a^2 / b^2 + 1 / ratio_t^2 = 1 / ratio^2, the joint precision of x_t and y
        new, variance = 1 - (levels.ratio / t.ratio) ** 2, levels.ratio**2
        total = new + variance
        a, b = jnp.sqrt(jnp.maximum(new, 0) / total), levels.ratio / jnp.sqrt(total)

        def move(y, x0, before, after):
            eps = (y - before[0] * x0) / before[1]
            return after[0] * x0 + after[1] * eps

        def inside(y, i):
            level = levels.at(i)
            seen = variance[i] * t.alpha / t.sigma**2 * x + a[i] * total[i] * y
            x0 = evaluate(level.alpha * seen, level).x0.astype(y.dtype)
            return move(y, x0, (a[i], b[i]), (a[i + 1], b[i + 1])), None

        y = move(normal(key, x), pred.x0, (0.0, 1.0), (a[0], b[0]))
        y, _ = jax.lax.scan(inside, y, jnp.arange(self.steps - 1))
        size = (s.alpha - kept * t.alpha) / jnp.where(a[-1] > 0, a[-1], 1)
        return kept * x + size * y, state
