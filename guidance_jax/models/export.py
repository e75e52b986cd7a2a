"""Export a denoiser, guided or not, as a plain function for another library's sampler or ODE solver."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import Denoiser, GaussianDiffusion, Level, Refused, need
from guidance_jax.schedules import Betas, RectifiedFlow, Schedule


def as_function(
    denoiser: Any,
    schedule: Schedule,
    output: str = "velocity",
    *,
    data_at: int = 0,
    batched: bool = True,
) -> Callable[[Any, Any, Any], Any]:
    """Make a function f(x, t, cond) that returns the `output` of a denoiser without state.

        velocity   dx/dt = alpha'(t) x0 + sigma'(t) eps, the probability-flow ODE on the schedule's clock; eps - x0 on
                   `RectifiedFlow`
        score      -eps / sigma = grad log p(x_t)
        x0, eps    the prediction itself

    With diffrax: `ODETerm(lambda t, x, cond: f(x, t, cond))`.

    Args:
      denoiser: a model or a guided model.
      schedule: the schedule whose clock t is.
      output: what f returns, one of the names above.
      data_at: 0, or 1 for the clock of other flow libraries, on `RectifiedFlow` only. With 1, t is 1 at the data, and
        the velocity has the other sign.
      batched: whether x (B, ...) and cond (B, ...) have a batch axis; t is one number or (B,).

    Returns:
      A pure function, which is not jitted.

    Raises:
      Refused: a denoiser with state (its output is no function of x and t), or of another space than Gaussian
        diffusion; an unknown `output`; data_at=1 on another schedule; the velocity on a schedule of betas.
    """
    need("as_function", denoiser, Denoiser, "the denoiser")
    if not isinstance(denoiser.space, GaussianDiffusion):
        raise Refused(
            f"as_function is for Gaussian diffusion, got a denoiser of {denoiser.space}; sample it with generate"
        )
    if output not in ("velocity", "score", "x0", "eps"):
        raise Refused(f"output must be velocity, score, x0 or eps, got {output!r}")
    if data_at not in (0, 1) or (data_at == 1 and schedule != RectifiedFlow()):
        raise Refused(f"data_at must be 0, or 1 on RectifiedFlow(), got {data_at} on {schedule}")
    if output == "velocity" and isinstance(schedule, Betas):
        raise Refused(f"{schedule} has discrete timesteps, so its velocity is not defined; export eps")

    def one(x, t, cond):
        t = jnp.asarray(t, jnp.result_type(float))
        level, rates = jax.jvp(schedule, (1 - t if data_at else t,), (jnp.ones_like(t),))
        state = denoiser.init(x)
        if jax.tree.leaves(state):
            raise Refused(f"{type(denoiser).__name__} keeps a state from step to step; sample it with generate")
        level = Level(*(jnp.asarray(a, x.dtype) for a in level))
        pred, _ = denoiser(x, level, cond, state, jax.random.key(0))
        if output == "velocity":
            found = rates.alpha.astype(x.dtype) * pred.x0 + rates.sigma.astype(x.dtype) * pred.eps
            return -found if data_at else found
        return {"score": -pred.eps / level.sigma, "x0": pred.x0, "eps": pred.eps}[output]

    def single(x, t, cond=None):
        return one(jnp.asarray(x), t, cond)

    def many(x, t, cond=None):
        x = jnp.asarray(x)
        return jax.vmap(one, in_axes=(0, 0 if jnp.ndim(t) else None, None if cond is None else 0))(x, t, cond)

    return many if batched else single
