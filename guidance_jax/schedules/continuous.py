"""Schedules with a continuous clock: Song et al. 2021 (arXiv 2011.13456, VP and VE), rectified flow (2209.03003)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from guidance_jax.core.levels import Level
from guidance_jax.schedules.base import Schedule


@dataclass(frozen=True)
class Cosine(Schedule):
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2), for t in [0, 1]; variance preserving."""

    def __call__(self, t: Any) -> Level:
        t = jnp.asarray(t)
        # sin of the complement: exactly 0 and 1 at the ends
        return Level(t, jnp.sin(jnp.pi / 2 * (1 - t)), jnp.sin(jnp.pi / 2 * t))

    def at_log_snr(self, log_snr: Any) -> Any:
        return jnp.arctan(jnp.exp(-jnp.asarray(log_snr) / 2)) * 2 / jnp.pi


@dataclass(frozen=True)
class LinearVP(Schedule):
    """alpha^2 = exp(-t beta_min - t^2 (beta_max - beta_min) / 2), sigma^2 = 1 - alpha^2, for t in [0, 1]."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    start: ClassVar[float] = 1.0

    def __call__(self, t: Any) -> Level:
        t = jnp.asarray(t)
        exponent = t * self.beta_min + t**2 * (self.beta_max - self.beta_min) / 2
        return Level(t, jnp.exp(-exponent / 2), jnp.sqrt(-jnp.expm1(-exponent)))

    def at_log_snr(self, log_snr: Any) -> Any:
        exponent = jax.nn.softplus(-jnp.asarray(log_snr))  # -log alpha^2
        slope = self.beta_max - self.beta_min
        return 2 * exponent / (self.beta_min + jnp.sqrt(self.beta_min**2 + 2 * slope * exponent))


@dataclass(frozen=True)
class VE(Schedule):
    """alpha = 1, sigma = t: variance exploding, the schedule of EDM, whose clock is sigma itself."""

    start: ClassVar[float] = 80.0

    def __call__(self, t: Any) -> Level:
        t = jnp.asarray(t)
        return Level(t, jnp.ones_like(t), t)

    def at_log_snr(self, log_snr: Any) -> Any:
        return jnp.exp(-jnp.asarray(log_snr) / 2)


@dataclass(frozen=True)
class RectifiedFlow(Schedule):
    """alpha = 1 - t, sigma = t, for t in [0, 1]: straight paths from noise to data."""

    def __call__(self, t: Any) -> Level:
        t = jnp.asarray(t)
        return Level(t, 1 - t, t)

    def at_log_snr(self, log_snr: Any) -> Any:
        return jax.nn.sigmoid(-jnp.asarray(log_snr) / 2)
