"""ReSample (Song et al. 2024, arXiv 2307.08123, Algorithm 1): latents that fit a measurement exactly, every few steps.

    c = argmin_z |y - A Dec(z)|^2 near the clean estimate,   by Adam in the latent, or in pixels and Enc
    z_s ~ N((k alpha_s c + z_s') / (k + 1),  sigma_s^2 k / (k + 1)),   z_s' the solver's step
    k = strength (1 - alpha_t^2 / alpha_s^2) / sigma_t^2

The authors' `sigma` is k sigma_s^2, a variance; its factor 40 is tuned. The levels have to preserve variance:
alpha^2 + sigma^2 = 1.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from guidance_jax.core import GaussianDiffusion, Kernel, Refused, concrete, converted, function, normal, pytree, static
from guidance_jax.kernels.reverse import Carry, Step, evaluator
from guidance_jax.models.adapters import known_part, part_of
from guidance_jax.operators.base import as_operator, check_measurement, check_operator, residual_of


@pytree
class ReSample(Step, Kernel):
    """Take a solver's step; every `every` steps also fit the estimate to the measurement and draw back to the level.

    One call of the denoiser per step. A fit in the latent takes `fits` gradients of the decoder, a fit in pixels one
    call of the decoder and one of the encoder. It does not sample the posterior. strength 0 is `Reverse`.

    Attributes:
      model: a denoiser of latents, usually unconditional.
      solver: any solver of images or vectors; DDIM in the paper.
      operator: A of decoded samples, linear or not.
      decode: a function of one latent.
      encode: a function of one decoded sample. With it, fits above `latent_below` are in pixels; with None, all fits
        are in the latent.
      strength: the factor `strength` in k; 40 in the paper, tuned there for each task.
      every: the number of steps from one fit to the next; 10 in the paper.
      hi: the largest sigma / alpha at which fits are made.
      latent_below: the largest sigma / alpha at which fits are in the latent.
      fits: the number of Adam steps in a fit.
      rate: the learning rate of Adam; in the paper .005 in the latent, .01 in pixels.
      observed: which part of `cond` is the measurement y: a function of `cond`, the name of an entry, or None for all.

    Raises:
      Refused: levels that do not preserve variance; a measurement that does not fit; tokens.
    """

    model: Any
    solver: Any
    operator: Any = converted(as_operator)
    decode: Any = converted(function, kw_only=True)
    encode: Any = converted(function, default=None, kw_only=True)
    strength: Any = 40.0
    every: int = static(default=10)
    hi: Any = 2.0
    latent_below: Any = 0.5
    fits: int = static(default=50)
    rate: Any = 0.01
    observed: Callable | str | None = static(default=None)

    takes = GaussianDiffusion

    def init(self, x):
        return Carry(x, self.model.init(x), (self.solver.init(x), jnp.zeros((), jnp.int32)))

    def check(self, levels, shape, cond):
        made = jax.eval_shape(self.decode, jax.ShapeDtypeStruct(shape, jnp.float32))
        check_operator(self, self.operator, made.shape)
        check_measurement(self, known_part(cond, self.observed))
        if concrete(levels) and np.abs(np.asarray(levels.alpha) ** 2 + np.asarray(levels.sigma) ** 2 - 1).max() > 1e-3:
            raise Refused("ReSample needs levels with alpha^2 + sigma^2 = 1; use a schedule such as Cosine()")
        self.check_parts(levels, shape, cond)
        self.model.check(levels, shape, cond)

    def __call__(self, carry, t, s, cond, key):
        model_key, solver_key, evaluate_key, noise_key = jax.random.split(key, 4)
        history, count = carry.solver_state
        y = part_of(cond, self.observed)
        pred, state = self.model(carry.x, t, cond, carry.model_state, model_key)
        evaluate = evaluator(self.model, cond, state, evaluate_key)
        plain, history = self.solver.step(pred, t, s, evaluate, history, solver_key)
        on = (count % self.every == 0) & (t.ratio <= self.hi)

        def draw_back():
            def in_pixels():
                return self.encode(self.fit(lambda x: x, self.decode(pred.x0), y))

            def in_latent():
                return self.fit(self.decode, pred.x0, y)

            pixels = in_latent if self.encode is None else in_pixels
            c = jax.lax.cond(t.ratio > self.latent_below, pixels, in_latent)
            k = self.strength * (1 - (t.alpha / s.alpha) ** 2) / t.sigma**2
            noise = s.sigma * jnp.sqrt(k / (k + 1)) * normal(noise_key, c)
            return ((k * s.alpha * c + plain) / (k + 1) + noise).astype(plain.dtype)

        on &= jnp.asarray(self.strength) > 0
        return Carry(jax.lax.cond(on, draw_back, lambda: plain), state, (history, count + 1))

    def fit(self, decode: Callable, start: Any, y: Any) -> Any:
        """Minimise |y - A decode(z)|^2 over z by Adam, from `start`; return z."""
        adam = optax.scale_by_adam()
        slope = jax.grad(lambda z: jnp.mean(residual_of(self.operator, decode(z), y) ** 2))

        def step(carry, _):
            z, state = carry
            update, state = adam.update(slope(z), state)
            return (z - self.rate * update, state), None

        (z, _), _ = jax.lax.scan(step, (start, adam.init(start)), None, self.fits)
        return z
