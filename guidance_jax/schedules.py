"""Noise schedules, x_t = alpha(t) x_0 + sigma(t) eps, and grids of levels on them.

A schedule maps its clock `t` to a `Level` and a log-SNR, log(alpha^2 / sigma^2), back to `t`. Grids end with the clean
level (alpha 1, sigma 0). Schedules are hashable values without arrays: checkpoints store them, equality compares them.

Sources: Song et al. 2021 (arXiv 2011.13456, VP and VE); Nichol & Dhariwal 2021 (2102.09672, cosine and respacing);
Karras et al. 2022 (2206.00364, eq. 5); Liu et al. 2022 (2209.03003, rectified flow).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core.levels import Level, Refused
from guidance_jax.core.pytrees import concrete


class Schedule:
    """Base of the schedules; a new one gives `__call__` and `at_log_snr`."""

    start: ClassVar[float] = 0.999  # the noisiest t that `levels` uses unless told otherwise

    def __call__(self, t: Any) -> Level:
        raise NotImplementedError

    def at_log_snr(self, log_snr: Any) -> Any:
        """The clock t at which log(alpha^2 / sigma^2) is `log_snr`."""
        raise NotImplementedError

    def levels(self, steps: int, start: float | None = None) -> Level:
        """`steps + 1` levels, uniform in t from `start` to the clean level."""
        return self(jnp.linspace(self.start if start is None else start, 0.0, steps + 1))

    def check(self, levels: Level, what: str) -> None:
        """Raise `Refused` unless the noisy ones of `levels` are on this schedule, as far as their numbers are known.

        `what` says of whom: "the network was trained on", for example.
        """
        if not concrete(levels):
            return
        with jax.ensure_compile_time_eval():  # the caller may be inside a jit of its own
            noisy = np.asarray(levels.sigma) > 0
            if not noisy.any():
                return
            got = Level(*(np.asarray(a)[noisy] for a in levels))
            own = self(got.t)
        off = max(
            float(np.max(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)) / np.maximum(np.abs(b), 1)))
            for a, b in zip(got[1:], own[1:], strict=True)
        )
        if off > 1e-3:
            raise Refused(
                f"{what} {self}, the levels are on another schedule (off by {off:.2g}); "
                f"write {self}.levels(...) or OnSchedule(model, {self})"
            )

    def by_ratio(self, ratios: Any) -> Level:
        """The levels at which sigma / alpha takes the values `ratios` (positive, falling), then the clean level."""
        t = self.at_log_snr(-2 * jnp.log(jnp.asarray(ratios)))
        return self(jnp.append(t, jnp.zeros((), t.dtype)))


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


@dataclass(frozen=True)
class DDPM(Schedule):
    """A discrete variance-preserving process of `steps` betas; the clock is the ORIGINAL timestep, 0 to steps - 1.

    Subclasses give `betas()`. Between timesteps the log-SNR is interpolated, so that the clock is continuous.
    `levels("250")` respaces as OpenAI does: it is exact at the chosen timesteps. `steps` is the number of betas.
    """

    steps: int = 1000

    def betas(self) -> np.ndarray:
        """The forward variances, float64, shape `(steps,)`."""
        raise NotImplementedError

    def alphas_cumprod(self) -> np.ndarray:
        """The cumulated product of 1 - beta, that is alpha^2, float64, shape `(steps,)`."""
        return np.cumprod(1 - self.betas())

    def _log_snrs(self) -> np.ndarray:
        squares = self.alphas_cumprod()
        return np.log(squares) - np.log1p(-squares)

    def __call__(self, t: Any) -> Level:
        t = jnp.asarray(t)
        dtype = jnp.promote_types(t.dtype, jnp.float32)
        log_snr = jnp.interp(t, jnp.arange(self.steps, dtype=dtype), jnp.asarray(self._log_snrs(), dtype))
        return Level(t, jnp.sqrt(jax.nn.sigmoid(log_snr)), jnp.sqrt(jax.nn.sigmoid(-log_snr)))

    def at_log_snr(self, log_snr: Any) -> Any:
        log_snr = jnp.asarray(log_snr)
        table = jnp.asarray(self._log_snrs()[::-1], log_snr.dtype)
        return jnp.interp(log_snr, table, jnp.arange(self.steps - 1, -1, -1, dtype=log_snr.dtype))

    def levels(self, steps: int | str, start: float | None = None) -> Level:
        """The respaced process `steps` ("250", "ddim25", "10,10,3,2,2" or a number), then the clean level.

        Raises:
          Refused: a respacing that does not fit `self.steps`, or a `start` (the respacing decides it).
        """
        if start is not None:
            raise Refused(f"a respaced process starts where its respacing says, got start={start}; leave it out")
        chosen = respace(self.steps, steps)[::-1]
        squares = self.alphas_cumprod()[chosen]
        dtype = jnp.zeros(()).dtype
        parts = np.append(chosen, 0.0), np.append(np.sqrt(squares), 1.0), np.append(np.sqrt(1 - squares), 0.0)
        return Level(*(jnp.asarray(a, dtype) for a in parts))

    def by_ratio(self, ratios: Any) -> Level:
        clean = Level(*(jnp.asarray([v], jnp.asarray(ratios).dtype) for v in (0.0, 1.0, 0.0)))
        noisy = self(self.at_log_snr(-2 * jnp.log(jnp.asarray(ratios))))
        return Level(*(jnp.concatenate(pair) for pair in zip(noisy, clean, strict=True)))


@dataclass(frozen=True)
class LinearBetas(DDPM):
    """OpenAI's "linear": betas from 1e-4 to 0.02, scaled by 1000 / `steps`."""

    def betas(self) -> np.ndarray:
        return np.linspace(0.1 / self.steps, 20 / self.steps, self.steps)


@dataclass(frozen=True)
class CosineBetas(DDPM):
    """OpenAI's "cosine" in `steps` steps: alpha^2(t) = cos^2((t + 0.008) / 1.008 pi / 2), betas at most 0.999."""

    def betas(self) -> np.ndarray:
        squares = np.cos((np.arange(self.steps + 1) / self.steps + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.minimum(1 - squares[1:] / squares[:-1], 0.999)


def respace(total: int, sections: int | str) -> np.ndarray:
    """The timesteps of a respaced process, rising, in OpenAI's notation.

    "ddimN": the first whole stride that gives exactly N timesteps from 0 (the last one is usually not `total - 1`).
    "a,b,...": `total` cut into equal sections, of which section i gets so many timesteps, first and last included.
    "fast27": GLIDE's choice for 1,000 timesteps.

    >>> respace(1000, "ddim25")[[0, 1, -1]].tolist(), respace(1000, "10,10,3,2,2").tolist()[-3:]
    ([0, 40, 960], [799, 800, 999])

    Raises:
      Refused: more timesteps than there are, or no whole stride.
    """
    text = str(sections)
    try:
        if text.startswith("ddim"):
            wanted = int(text[4:])
            for stride in range(1, total):
                if len(range(0, total, stride)) == wanted:
                    return np.arange(0, total, stride)
            raise Refused(f'no whole stride makes {wanted} of {total} timesteps; write "{wanted}" for fractional')
        counts = [10, 10, 3, 2, 2] if text == "fast27" else [int(part) for part in text.split(",")]
    except ValueError as error:
        if "invalid literal" not in str(error):
            raise
        raise Refused(f'a respacing is "250", "ddim25" or "10,10,3,2,2", got {text!r}') from None
    chosen: list[int] = []
    first = 0
    for i, count in enumerate(counts):
        size = total // len(counts) + (i < total % len(counts))
        if not 1 <= count <= size:
            raise Refused(f'cannot take {count} of {size} timesteps in section {i} of "{text}"; ask for 1 to {size}')
        fraction = (size - 1) / (count - 1) if count > 1 else 1.0
        position = 0.0
        for _ in range(count):
            chosen.append(first + round(position))
            position += fraction  # summed, as in the original: rounding decides ties
        first += size
    if text == "fast27":
        chosen[-1] = total - 3
    return np.asarray(chosen)


def karras(schedule: Schedule, steps: int, lo: float = 0.002, hi: float = 80.0, rho: float = 7.0) -> Level:
    """Karras et al.'s grid (eq. 5) on `schedule`, in sigma / alpha from `hi` to `lo` in `steps` levels, then clean.

    `rho` bends it: 1 is uniform, 7 the paper's, which puts more levels near the data.

    Raises:
      Refused: unless 0 < lo < hi and steps >= 2.
    """
    _check_range(steps, lo, hi)
    ramp = jnp.linspace(0.0, 1.0, steps)
    return schedule.by_ratio((hi ** (1 / rho) + ramp * (lo ** (1 / rho) - hi ** (1 / rho))) ** rho)


def log_snr_uniform(schedule: Schedule, steps: int, lo: float = 0.002, hi: float = 80.0) -> Level:
    """Levels of `schedule` uniform in log-SNR: sigma / alpha falls geometrically from `hi` to `lo` in `steps`.

    Raises:
      Refused: unless 0 < lo < hi and steps >= 2.
    """
    _check_range(steps, lo, hi)
    return schedule.by_ratio(jnp.exp(jnp.linspace(jnp.log(hi), jnp.log(lo), steps)))


def _check_range(steps: int, lo: float, hi: float) -> None:
    if steps < 2 or not 0 < lo < hi:
        raise Refused(f"a grid needs 0 < lo < hi and steps >= 2, got lo={lo}, hi={hi}, steps={steps}")
