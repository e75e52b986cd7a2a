"""Sampling from a noisy sample to a clean one, for methods that need draws of p(x_0 | x_t) within a step."""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import Denoiser, GaussianDiffusion, Level, Refused, Solver, float_type
from guidance_jax.kernels.reverse import Carry, Reverse
from guidance_jax.schedules import Schedule

BEND, LEAST = 7.0, 0.01  # of the inner grid: EDM's exponent rho, and the least sigma / alpha


def levels_below(schedule: Schedule, t: Level, steps: int, gaussian: bool = True) -> Level:
    """Return the levels of `steps` steps from the level `t`, which may be traced, to the clean level.

    They are on EDM's grid if `gaussian`, else uniform in the clock.
    """
    ramp = jnp.linspace(0.0, 1.0, steps + 1)
    if gaussian:
        own = schedule(schedule.at_log_snr(-2 * jnp.log(jnp.asarray(LEAST)))).ratio  # betas end above LEAST
        least = jnp.minimum(own, 0.5 * t.ratio)
        high, low = t.ratio ** (1 / BEND), least ** (1 / BEND)
        levels = schedule.by_ratio((high + ramp[:-1] * steps / max(steps - 1, 1) * (low - high)) ** BEND)
    else:
        levels = schedule(t.t * (1 - ramp))
    return jax.tree.map(lambda a, first: a.at[0].set(first), levels, t)


def descend(
    model: Denoiser, solver: Solver, schedule: Schedule, steps: int, x: Any, t: Level, cond: Any, state: Any, key: Any
) -> Any:
    """Return the clean sample that `steps` steps of `solver` on `model` make of `x` at level `t`.

    With a stochastic solver it is a draw of p(x_0 | x_t), as accurate as the steps; with a deterministic one it is not.
    Each step makes one network call, or as many as the solver needs.

    Args:
      model, solver: as in `Reverse`.
      schedule: the schedule of the levels.
      steps: the number of steps, 1 or more.
      x: the noisy sample.
      t: the level of x.
      cond: the condition of x.
      state: the state of the model at x.
      key: the random key of the draws.
    """
    levels = levels_below(schedule, t, steps, isinstance(model.space, GaussianDiffusion))
    levels = Level(*(a.astype(float_type(x)) for a in levels))
    kernel = Reverse(model, solver)

    def step(carry, inputs):
        i, key = inputs
        return kernel(carry, levels.at(i), levels.at(i + 1), cond, key), None

    carry = Carry(x, state, solver.init(x))
    carry, _ = jax.lax.scan(step, carry, (jnp.arange(steps), jax.random.split(key, steps)))
    return carry.x


class Descending:
    """Base class of methods that need draws of p(x_0 | x_t), so that their solver has to be stochastic."""

    solver: Any


def check_descent(owner: Any, levels: Level) -> None:
    """Raise `Refused` unless `owner` has the schedule of `levels` and one step or more.

    A `Descending` owner also needs a stochastic solver.
    """
    name = type(owner).__name__
    owner.schedule.check(levels, f"{name} calls the network between the levels of")
    if owner.steps < 1:
        raise Refused(f"{name} needs at least one inner step, got steps={owner.steps}; write steps=10")
    if isinstance(owner, Descending) and owner.solver.deterministic:
        raise Refused(
            f"{name} needs draws of p(x_0 | x_t), which {type(owner.solver).__name__} does not make; use DDIM(1.0) or "
            "GLASS(schedule)"
        )
