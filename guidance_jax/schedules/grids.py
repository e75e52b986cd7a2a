"""Grids of levels on a schedule, from noise to the clean level (alpha 1, sigma 0).

Karras et al. 2022 (arXiv 2206.00364, eq. 5); Esser et al. 2024 (2403.03206, section 5.3.2: shifted by resolution);
Lee et al. 2024 (2407.12173: beta); Sabour et al. 2024 (2404.14507, Align Your Steps: tables).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core.levels import Level, Refused
from guidance_jax.core.pytrees import concrete
from guidance_jax.schedules.base import Schedule, check_steps
from guidance_jax.schedules.betas import Betas


def karras(schedule: Schedule, steps: int, lo: Any = 0.002, hi: Any = 80.0, rho: Any = 7.0) -> Level:
    """Return Karras et al.'s grid (eq. 5) on `schedule`: `steps` levels, sigma / alpha from `hi` to `lo`, then clean.

    `rho` sets the spacing: 1 is uniform in sigma / alpha; 7, the paper's value, puts more levels near the data.

    Raises:
      Refused: unless 0 < lo < hi and steps >= 2.
    """
    _check_range(steps, lo, hi)
    ramp = jnp.linspace(0.0, 1.0, steps)
    return schedule.by_ratio((hi ** (1 / rho) + ramp * (lo ** (1 / rho) - hi ** (1 / rho))) ** rho)


def log_snr_uniform(schedule: Schedule, steps: int, lo: Any = 0.002, hi: Any = 80.0) -> Level:
    """Return `steps` levels of `schedule` uniform in log-SNR, sigma / alpha from `hi` to `lo`, then the clean level.

    Raises:
      Refused: unless 0 < lo < hi and steps >= 2.
    """
    _check_range(steps, lo, hi)
    return schedule.by_ratio(jnp.exp(jnp.linspace(jnp.log(hi), jnp.log(lo), steps)))


def beta(schedule: Schedule, steps: int, lo: Any = 0.03, hi: Any = 14.6, a: float = 0.6, b: float = 0.6) -> Level:
    """Return `steps` levels of `schedule` with sigma / alpha at quantiles of Beta(a, b) on `hi` to `lo`, then clean.

    With the default a and b they are dense at both ends.

    Raises:
      Refused: unless 0 < lo < hi, a and b are positive, and steps >= 2.
    """
    _check_range(steps, lo, hi)
    if not (a > 0 and b > 0):
        raise Refused(f"a beta grid needs a > 0 and b > 0, got a={a}, b={b}; write a=0.6, b=0.6")
    wanted = 1 - jnp.linspace(0.0, 1.0, steps)

    def halve(_, ends):
        middle = (ends[0] + ends[1]) / 2
        below = jax.scipy.special.betainc(a, b, middle) < wanted
        return jnp.where(below, middle, ends[0]), jnp.where(below, ends[1], middle)

    least, most = jax.lax.fori_loop(0, 40, halve, (jnp.zeros(steps), jnp.ones(steps)))
    return schedule.by_ratio(lo + (hi - lo) * (least + most) / 2)


ALIGNED = {  # sigma / alpha of ten steps
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113),
    "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034),
}


def align_your_steps(schedule: Schedule, steps: int, model: str = "sd15") -> Level:
    """Return levels of `schedule` that are optimised for a `model`: sd15, sdxl or svd.

    The tables have ten steps. Other numbers of `steps` interpolate the logarithm of sigma / alpha.

    Raises:
      Refused: another model, or steps < 2.
    """
    check_steps(steps, 2)
    if model not in ALIGNED:
        raise Refused(f"aligned steps are known for {', '.join(ALIGNED)}, got {model!r}")
    table = np.log(ALIGNED[model])
    ratios = np.exp(np.interp(np.linspace(0, 1, steps), np.linspace(0, 1, len(table)), table))
    return schedule.by_ratio(jnp.asarray(ratios))


def simple(schedule: Schedule, steps: int) -> Level:
    """Return every (T / `steps`)-th timestep of a `schedule` of T betas, from the last one down: ComfyUI's `simple`.

    Raises:
      Refused: a schedule without timesteps, or more steps than it has.
    """
    betas = _betas(schedule, steps, "simple")
    return betas.at(betas.steps - 1 - (np.arange(steps) * (betas.steps / steps)).astype(int))


def sgm_uniform(schedule: Schedule, steps: int) -> Level:
    """Return `steps` levels of `schedule` uniform in the timestep, without timestep 0, then clean: as in ComfyUI.

    Raises:
      Refused: a schedule without timesteps, or more steps than it has.

    >>> from guidance_jax.schedules import LinearBetas
    >>> [round(t) for t in sgm_uniform(LinearBetas(1000), 3).t.tolist()]
    [999, 666, 333, 0]
    """
    betas = _betas(schedule, steps, "sgm_uniform")
    noisy = betas(jnp.linspace(betas.steps - 1.0, 0.0, steps + 1)[:-1])
    return Level(*(jnp.append(a, end) for a, end in zip(noisy, (0.0, 1.0, 0.0), strict=True)))


def _betas(schedule: Schedule, steps: int, name: str) -> Betas:
    if not isinstance(schedule, Betas):
        raise Refused(f"{name} chooses timesteps of a Betas schedule, but the model is on {schedule}; use uniform")
    check_steps(steps)
    if steps > schedule.steps:
        raise Refused(
            f"there are {schedule.steps} timesteps, got steps={steps}; use a number from 1 to {schedule.steps}"
        )
    return schedule


def grid(schedule: Schedule, steps: int, table: Mapping[str, Any] | None = None) -> Level:
    """Return a grid of `steps` steps on `schedule` by its name and options in `table`: {"name": "shifted", "shift": 3}.

    Without a name the grid is `uniform`.

    Raises:
      Refused: an unknown grid or option of one.
    """
    options = dict(table or {})
    name = options.pop("name", "uniform")
    if name not in GRIDS:
        raise Refused(f"there is no grid called {name!r}; known are {', '.join(GRIDS)}")
    try:
        return GRIDS[name](schedule, steps, **options)
    except TypeError:
        raise Refused(f"the grid {name} has no options {', '.join(options)}; see guidance-jax methods") from None


def uniform(schedule: Schedule, steps: Any, **options: Any) -> Level:
    """Return levels uniform in the clock, `schedule.levels`."""
    return schedule.levels(steps, **options)


def shifted(
    schedule: Schedule,
    steps: int,
    shift: Any = 3.0,
    start: float | None = None,
    terminal: float | None = None,
    end: float | None = None,
) -> Level:
    """Return levels uniform in the clock, with sigma / alpha then multiplied by `shift`, and the clean level.

        on RectifiedFlow:  t' = shift t / (1 + (shift - 1) t)

    SD3 uses 3 for 1,024 pixels, FLUX uses `dynamic_shift(tokens)`. LightningDiT's 0.3 is for the reversed clock, and is
    1 / 0.3 here.

    Args:
      schedule: the schedule, whose clock is 0 at the data.
      steps: the number of steps.
      shift: the factor; above 1 it puts more levels near the noise.
      start: the noisiest t before the shift; None for the schedule's own.
      end: the last noisy t before the shift; None for one step above the clean level.
      terminal: the t of rectified flow to which the grid is stretched at its last noisy level, diffusers'
        `shift_terminal`; None for no stretching.

    Raises:
      Refused: a shift that is not positive, no steps, or a terminal outside 0 to 1.
    """
    check_steps(steps)
    if concrete(shift) and not shift > 0:
        raise Refused(f"a shifted grid needs shift > 0, got shift={shift}; write shift=3.0")
    first = schedule.start if start is None else start
    t = jnp.linspace(first, 0.0, steps + 1)[:-1] if end is None else jnp.linspace(first, end, steps)
    ratios = shift * schedule(t).ratio
    if terminal is None:
        return schedule.by_ratio(ratios)
    if concrete(terminal) and not 0 < terminal < 1:
        raise Refused(f"the terminal of a shifted grid must be from 0 to 1, got {terminal}; write terminal=0.02")
    signal = 1 / (1 + ratios)  # 1 - t of rectified flow
    signal = signal * (1 - terminal) / signal[-1]
    return schedule.by_ratio((1 - signal) / signal)


def dynamic_shift(
    tokens: int, least: float = 0.5, most: float = 1.15, least_tokens: int = 256, most_tokens: int = 4096
) -> float:
    """Return FLUX's shift for images of that many `tokens`.

    Its logarithm is linear in the number of tokens: `least` at `least_tokens`, `most` at `most_tokens`.

    >>> round(dynamic_shift(4096), 4)
    3.1582
    """
    slope = (most - least) / (most_tokens - least_tokens)
    return math.exp(least + slope * (tokens - least_tokens))


def spaced(schedule: Schedule, steps: int, spacing: str = "leading", offset: int = 0, clean: bool = True) -> Level:
    """Return the levels of the timesteps that diffusers' schedulers choose from a schedule of betas.

        leading    0, r, 2 r, ... with r = T // steps, plus `offset`
        trailing   T - 1, T - 1 - T / steps, ..., rounded: starts at the noisiest level
        linspace   from 0 to T - 1, both included

    Args:
      schedule: a schedule of T betas.
      steps: the number of steps.
      spacing: one of the names above, `timestep_spacing` in diffusers.
      offset: `steps_offset` in diffusers, for leading spacing; Stable Diffusion has 1.
      clean: whether to end at the clean level; if not, at timestep 0 (`set_alpha_to_one=False` in diffusers).

    Raises:
      Refused: a schedule without timesteps, more steps than it has, or an unknown spacing.
    """
    betas = _betas(schedule, steps, "spaced")
    total = betas.steps
    if spacing == "leading":
        chosen = np.arange(steps)[::-1] * (total // steps) + offset
    elif spacing == "trailing":
        chosen = np.round(np.arange(total, 0, -total / steps)).astype(int)[:steps] - 1
    elif spacing == "linspace":
        chosen = np.round(np.linspace(0, total - 1, steps)).astype(int)[::-1]
    else:
        raise Refused(f"spacing must be leading, trailing or linspace, got {spacing!r}")
    if steps == 1 and spacing != "trailing":
        raise Refused(f"one step of {spacing} spacing starts at timestep {chosen[0]}, without noise; write trailing")
    chosen = np.minimum(chosen, total - 1)
    if len(np.unique(chosen)) < steps:
        raise Refused(
            f"{steps} steps of {spacing} spacing with offset {offset} go beyond the last of {total} timesteps; use at "
            f"most {total - max(offset, 0)} steps, or offset=0"
        )
    if not clean and chosen[-1] > 0:  # a last step from timestep 0 to itself would do nothing
        chosen = np.append(chosen, 0)
    return betas.at(chosen, clean)


GRIDS: dict[str, Callable[..., Level]] = {
    f.__name__: f
    for f in (uniform, karras, log_snr_uniform, beta, align_your_steps, shifted, spaced, simple, sgm_uniform)
}


def _check_range(steps: int, lo: Any, hi: Any) -> None:
    check_steps(steps, 2)
    if concrete((lo, hi)) and not 0 < lo < hi:
        raise Refused(f"a grid needs 0 < lo < hi, sigma / alpha at its ends, got lo={lo}, hi={hi}")
