"""Schedules defined by betas, whose clock is the timestep of training, and the choice of timesteps.

Nichol & Dhariwal 2021 (arXiv 2102.09672): linear and cosine betas, respacing. Rombach et al. 2022 (2112.10752): betas
whose roots are linear. Lin et al. 2024 (2305.08891): no signal at the last timestep.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core.levels import Level, Refused
from guidance_jax.core.pytrees import concrete
from guidance_jax.schedules.base import Schedule, check_steps


@dataclass(frozen=True)
class Betas(Schedule):
    """A discrete variance-preserving process of `steps` betas. The clock is the ORIGINAL timestep, 0 to steps - 1.

    Subclasses define `betas()`. Between timesteps the log-SNR is interpolated, so that the clock is continuous.
    `levels("250")` respaces as OpenAI's code does, and is exact at the chosen timesteps.

    Attributes:
      steps: the number of betas.
    """

    steps: int = 1000

    def betas(self) -> np.ndarray:
        """Return the forward variances, float64, shape `(steps,)`."""
        raise NotImplementedError

    def alphas_cumprod(self) -> np.ndarray:
        """Return the cumulative product of 1 - beta, which is alpha^2, float64, shape `(steps,)`."""
        return np.cumprod(1 - self.betas())

    def _log_snrs(self) -> np.ndarray:
        squares = np.maximum(self.alphas_cumprod(), 1e-16)  # log-SNR -inf cannot be interpolated
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

    def levels(self, steps: Any, start: float | None = None) -> Level:
        """Return the levels of the respacing `steps` ("250", "ddim25", "10,10,3,2,2" or a number), then the clean one.

        Raises:
          Refused: a respacing that does not fit `self.steps`, or a `start` (the respacing decides it).
        """
        if start is not None:
            raise Refused(f"the respacing decides where a respaced process starts, got start={start}; remove start")
        if not isinstance(steps, str):
            check_steps(steps)
        return self.at(respace(self.steps, steps)[::-1])

    def at(self, timesteps: np.ndarray, clean: bool = True) -> Level:
        """Return the exact levels of the integer `timesteps`, then the clean level if `clean`."""
        squares, dtype = self.alphas_cumprod()[timesteps], jnp.zeros(()).dtype
        parts = np.asarray(timesteps, float), np.sqrt(squares), np.sqrt(1 - squares)
        last = (0.0, 1.0, 0.0)
        return Level(*(jnp.asarray(np.append(a, v) if clean else a, dtype) for a, v in zip(parts, last, strict=True)))

    def by_ratio(self, ratios: Any) -> Level:
        clean = Level(*(jnp.asarray([v], jnp.asarray(ratios).dtype) for v in (0.0, 1.0, 0.0)))
        if concrete(ratios):
            with jax.ensure_compile_time_eval():
                wanted = np.asarray(ratios, np.float64)
            least, most = (float(np.exp(-half / 2)) for half in self._log_snrs()[[0, -1]])
            if wanted.size and (wanted.max() > most * 1.001 or wanted.min() < least * 0.999):
                raise Refused(
                    f"{self} has levels of sigma / alpha from {least:.4g} to {most:.4g}, got {wanted.min():.4g} to "
                    f"{wanted.max():.4g}; write lo={least * 1.01:.3g}, hi={most * 0.99:.3g}"
                )
        noisy = self(self.at_log_snr(-2 * jnp.log(jnp.asarray(ratios))))
        return Level(*(jnp.concatenate(pair) for pair in zip(noisy, clean, strict=True)))


@dataclass(frozen=True)
class LinearBetas(Betas):
    """Betas from `first` / `steps` to `last` / `steps`, by default OpenAI's "linear": 1e-4 to 0.02 in 1,000 steps."""

    first: float = 0.1
    last: float = 20.0

    def betas(self) -> np.ndarray:
        return np.linspace(self.first / self.steps, self.last / self.steps, self.steps)


@dataclass(frozen=True)
class ScaledLinearBetas(Betas):
    """Betas whose square roots are linear, from `first` to `last` in `steps`, as in all Stable Diffusion up to XL.

    Attributes:
      steps: the number of betas.
      first: the first beta.
      last: the last beta.
      zero_terminal: whether to rescale so that the last timestep has no signal, alpha = 0 (Lin et al. 2024,
        Algorithm 1). Predicted noise does not determine x0 there, so the network must predict v or x0.
    """

    first: float = 0.00085
    last: float = 0.012
    zero_terminal: bool = False

    def betas(self) -> np.ndarray:
        return np.linspace(self.first**0.5, self.last**0.5, self.steps) ** 2

    def alphas_cumprod(self) -> np.ndarray:
        squares = super().alphas_cumprod()
        if not self.zero_terminal:
            return squares
        roots = np.sqrt(squares)
        return ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2


@dataclass(frozen=True)
class CosineBetas(Betas):
    """OpenAI's "cosine" in `steps` steps: alpha^2(t) = cos^2((t + 0.008) / 1.008 pi / 2), betas at most 0.999."""

    def betas(self) -> np.ndarray:
        squares = np.cos((np.arange(self.steps + 1) / self.steps + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.minimum(1 - squares[1:] / squares[:-1], 0.999)


def respace(total: int, sections: int | str) -> np.ndarray:
    """Return the timesteps of a respaced process, in rising order. `sections` is in OpenAI's notation.

    "ddimN": the first whole stride that gives exactly N timesteps from 0 (the last one is usually not `total - 1`).
    "a,b,...": `total` is cut into equal sections, and the i-th number is the count of timesteps in section i, first
    and last included.
    "1": the last timestep. OpenAI's code takes the first one, which has hardly any noise to start from.
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
            raise Refused(
                f'no whole stride gives {wanted} of {total} timesteps; write "{wanted}" for a fractional stride'
            )
        counts = [10, 10, 3, 2, 2] if text == "fast27" else [int(part) for part in text.split(",")]
    except ValueError as error:
        if "invalid literal" not in str(error):
            raise
        raise Refused(f'a respacing must be like "250", "ddim25" or "10,10,3,2,2", got {text!r}') from None
    if counts == [1]:
        return np.asarray([total - 1])
    chosen: list[int] = []
    first = 0
    for i, count in enumerate(counts):
        size = total // len(counts) + (i < total % len(counts))
        if not 1 <= count <= size:
            raise Refused(f'cannot take {count} of {size} timesteps in section {i} of "{text}"; use 1 to {size}')
        fraction = (size - 1) / (count - 1) if count > 1 else 1.0
        position = 0.0
        for _ in range(count):
            chosen.append(first + round(position))
            position += fraction  # a running sum as in the original, for the same rounding
        first += size
    if text == "fast27":
        chosen[-1] = total - 3
    return np.asarray(chosen)
