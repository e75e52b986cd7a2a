"""Values of noisy samples, by draws of clean samples from them (Meta Flow Maps 2026, 2601.14430; GLASS, 2509.25170).

    V(x_t) = 1 / scale log E[exp(scale r(x_0)) | x_t]           ~ 1 / scale log mean_m exp(scale r(x_0^m))
    D'     = E[x_0 | x_t] under the data tilted by exp(scale r)  ~ D + sum_m (w_m - 1/M) x_0^m,   w = softmax(scale r)

with D the clean estimate and x_0^m ~ p(x_0 | x_t) drawn by the model's own chain. The reward of the clean estimate,
r(D), is a biased value wherever p(x_0 | x_t) is spread out.
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import (
    Denoiser,
    GaussianDiffusion,
    Guide,
    Level,
    Solver,
    as_guide,
    check_signal,
    check_space,
    converted,
    float_type,
    need,
    pytree,
    static,
)
from guidance_jax.guidance.base import Guidance
from guidance_jax.guidance.scales import strength
from guidance_jax.kernels.descend import Descending, check_descent, descend
from guidance_jax.schedules import Schedule


def _check(owner: Any, model: Any, levels: Level, shape: tuple[int, ...], cond: Any) -> None:
    need(owner, model, Denoiser, "the model")
    need(owner, owner.solver, Solver, "the solver")
    need(owner, owner.reward, Guide, "the reward")
    check_space(owner.solver, model.space)
    check_descent(owner, levels)
    if isinstance(model.space, GaussianDiffusion):
        check_signal(levels, type(owner).__name__)
    owner.reward.check(levels, shape, cond)


def _draw(owner: Any, model: Any, x: Any, level: Level, cond: Any, state: Any, key: Any) -> tuple[Any, Any]:
    """Draw clean samples from `x`. Return (samples, their rewards)."""

    def one(key):
        x0 = descend(model, owner.solver, owner.schedule, owner.steps, x, level, cond, state, key)
        return x0, owner.reward.value(x0, level, cond)

    return jax.vmap(one)(jax.random.split(key, owner.draws))


def key_of(x: Any, level: Level) -> Any:
    """Return a key that depends on all of one sample `x` and on its level, since guides are given no key."""
    wide = x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.int32)
    bits = jax.lax.bitcast_convert_type(wide, jnp.uint32).ravel()
    places = 2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1
    mixed = jnp.sum((bits ^ (bits >> 15)) * places * jnp.uint32(2654435761), dtype=jnp.uint32)
    clock = jax.lax.bitcast_convert_type(jnp.asarray(level.sigma, jnp.float32), jnp.uint32)
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(0, impl="threefry2x32"), mixed), clock)


@pytree
class Lookahead(Descending, Guide):
    """Estimate a reward's value at noisy samples, for `SVDD`, `Steered` and `Twisted` with `noisy=True`, and `Beam`.

    One value costs `draws` times `steps` steps of the solver. It is random, with a key made from the sample, and tends
    to V as `draws` grows. As a twist it leaves particle methods exact, however rough it is.

    Attributes:
      model: the unguided denoiser.
      solver: a solver that draws: `GLASS(schedule)` with steps=1, `DDIM(1.0)`, `Ancestral()`.
      reward: a `Guide` of clean samples, or f(x0, level, cond) -> scalar; it need not be differentiable.
      schedule: the schedule of the levels.
      scale: 1 / temperature of the reward, a number other than 0: the scale of the method that uses the value.
      draws: the number of clean samples per value.
      steps: the number of steps of the solver from the level to the clean one.

    Raises:
      Refused: a deterministic solver; levels on another schedule or, of images and vectors, without signal.
    """

    model: Any
    solver: Any
    reward: Any = converted(as_guide)
    schedule: Schedule = static()
    scale: Any = 1.0
    draws: int = static(default=4)
    steps: int = static(default=1)

    def check(self, levels, shape, cond):
        _check(self, self.model, levels, shape, cond)
        self.model.check(levels, shape, cond)

    def log_prob(self, x, level, cond):
        def ahead():
            _, rewards = _draw(self, self.model, x, level, cond, self.model.init(x), key_of(x, level))
            mean = jax.nn.logsumexp(self.scale * rewards) - jnp.log(self.draws)
            return (mean / self.scale).astype(float_type(x))

        return jax.lax.cond(level.sigma > 0, ahead, lambda: self.reward.value(x, level, cond).astype(float_type(x)))


@pytree
class PosteriorMean(Descending, Guidance):
    """Estimate the clean sample of the data tilted by exp(scale r), without any gradient.

    The guided prediction still satisfies alpha x0 + sigma eps = x; scale 0 is `inner`. It costs one call of `inner` per
    step, and `draws` times `steps` steps of the solver. The bias falls as 1 / draws, the noise as its square root. In
    many dimensions a few draws carry all the weight.

    Attributes:
      inner: the denoiser to guide.
      solver, reward, schedule, draws, steps: as in `Lookahead`.
      scale: the factor of the reward: a number, `Window`, or a function of the level.

    Raises:
      Refused: what `Lookahead` refuses; tokens.
    """

    inner: Any
    solver: Any
    reward: Any = converted(as_guide)
    schedule: Schedule = static()
    scale: Any = 1.0
    draws: int = static(default=16)
    steps: int = static(default=1)

    takes = GaussianDiffusion

    def check(self, levels, shape, cond):
        super().check(levels, shape, cond)
        _check(self, self.inner, levels, shape, cond)

    def __call__(self, x, level, cond, state, key):
        model_key, draws_key = jax.random.split(key)
        pred, new = self.inner(x, level, cond, state, model_key)
        x0, rewards = _draw(self, self.inner, x, level, cond, state, draws_key)
        share = jax.nn.softmax(strength(self.scale, level, cond, off=0.0) * rewards) - 1 / self.draws
        return pred.towards(pred.x0 + jnp.tensordot(share, x0, 1, precision="highest").astype(x.dtype), level), new
