"""Grids of levels on a schedule, from noise to the clean level (alpha 1, sigma 0), as functions of both and options.

Karras et al. 2022 (arXiv 2206.00364, eq. 5); Esser et al. 2024 (2403.03206, section 5.3.2: shifted by resolution).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from guidance_jax.core.levels import Level, Refused
from guidance_jax.core.pytrees import concrete
from guidance_jax.schedules.base import Schedule, check_steps
from guidance_jax.schedules.betas import Betas


def karras(schedule: Schedule, steps: int, lo: Any = 0.002, hi: Any = 80.0, rho: Any = 7.0) -> Level:
    """Karras et al.'s grid (eq. 5) on `schedule`, in sigma / alpha from `hi` to `lo` in `steps` levels, then clean.

    `rho` bends it: 1 is uniform, 7 the paper's, which puts more levels near the data.

    Raises:
      Refused: unless 0 < lo < hi and steps >= 2.
    """
    _check_range(steps, lo, hi)
    ramp = jnp.linspace(0.0, 1.0, steps)
    return schedule.by_ratio((hi ** (1 / rho) + ramp * (lo ** (1 / rho) - hi ** (1 / rho))) ** rho)


def log_snr_uniform(schedule: Schedule, steps: int, lo: Any = 0.002, hi: Any = 80.0) -> Level:
    """Levels of `schedule` uniform in log-SNR: sigma / alpha falls geometrically from `hi` to `lo` in `steps`.

    Raises:
      Refused: unless 0 < lo < hi and steps >= 2.
    """
    _check_range(steps, lo, hi)
    return schedule.by_ratio(jnp.exp(jnp.linspace(jnp.log(hi), jnp.log(lo), steps)))


def grid(schedule: Schedule, steps: int, table: Mapping[str, Any] | None = None) -> Level:
    """`steps` steps on `schedule`, on the grid that `table` names, with its options: {"name": "shifted", "shift": 3}.

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
    """Levels uniform in the clock: `schedule.levels`."""
    return schedule.levels(steps, **options)


def shifted(schedule: Schedule, steps: int, shift: Any = 3.0, start: float | None = None) -> Level:
    """Levels uniform in the clock whose sigma / alpha is then multiplied by `shift`, and the clean level.

        on RectifiedFlow:  t' = shift t / (1 + (shift - 1) t)

    SD3 has 3 for 1,024 pixels; FLUX takes `dynamic_shift(tokens)`; LightningDiT 0.3, written for the reversed clock,
    which is 1 / 0.3 here.

    Args:
      schedule, steps: `steps` steps on `schedule`, whose clock is 0 at the data.
      shift: above 1 for more levels near the noise.
      start: the noisiest t before it is shifted; by default the schedule's own.

    Raises:
      Refused: a shift that is not positive, or no steps.
    """
    check_steps(steps)
    if concrete(shift) and not shift > 0:
        raise Refused(f"a shifted grid needs shift > 0, got shift={shift}; write shift=3.0")
    t = jnp.linspace(schedule.start if start is None else start, 0.0, steps + 1)[:-1]
    return schedule.by_ratio(shift * schedule(t).ratio)


def dynamic_shift(
    tokens: int, least: float = 0.5, most: float = 1.15, least_tokens: int = 256, most_tokens: int = 4096
) -> float:
    """FLUX's shift for pictures of that many `tokens`, on a logarithmic scale.

    Its logarithm is linear: `least` at `least_tokens`, `most` at `most_tokens`.

    >>> round(dynamic_shift(4096), 4)
    3.1582
    """
    slope = (most - least) / (most_tokens - least_tokens)
    return math.exp(least + slope * (tokens - least_tokens))


def spaced(schedule: Schedule, steps: int, spacing: str = "leading", offset: int = 0, clean: bool = True) -> Level:
    """The timesteps that diffusers' schedulers choose of a schedule of betas.

        leading    0, r, 2 r, ... with r = T // steps, plus `offset`
        trailing   T - 1, T - 1 - T / steps, ..., rounded: starts at the noisiest level
        linspace   from 0 to T - 1, both included

    Args:
      schedule: of T betas.
      steps: how many steps.
      spacing: as above; `timestep_spacing` there.
      offset: `steps_offset` there; Stable Diffusion has 1.
      clean: end at the clean level; if not, at that of timestep 0 (`set_alpha_to_one=False` there).

    Raises:
      Refused: a schedule without timesteps, more steps than it has, or an unknown spacing.
    """
    if not isinstance(schedule, Betas):
        raise Refused(f"spaced chooses among the timesteps of betas, the model is on {schedule}; use uniform")
    total = schedule.steps
    check_steps(steps)
    if not 1 <= steps <= total:
        raise Refused(f"there are {total} timesteps, got steps={steps}; ask for 1 to that")
    if spacing == "leading":
        chosen = np.arange(steps)[::-1] * (total // steps) + offset
    elif spacing == "trailing":
        chosen = np.round(np.arange(total, 0, -total / steps)).astype(int)[:steps] - 1
    elif spacing == "linspace":
        chosen = np.round(np.linspace(0, total - 1, steps)).astype(int)[::-1]
    else:
        raise Refused(f"spacing is leading, trailing or linspace, got {spacing!r}")
    if steps == 1 and spacing != "trailing":
        raise Refused(f"one step of {spacing} spacing starts at timestep {chosen[0]}, without noise; write trailing")
    chosen = np.minimum(chosen, total - 1)
    if len(np.unique(chosen)) < steps:
        raise Refused(
            f"{steps} steps of {spacing} spacing with offset {offset} go beyond the last of {total} timesteps; ask for "
            f"{total - max(offset, 0)} steps at most, or offset=0"
        )
    if not clean and chosen[-1] > 0:  # a last step from timestep 0 to itself would do nothing
        chosen = np.append(chosen, 0)
    return schedule.at(chosen, clean)


GRIDS: dict[str, Callable[..., Level]] = {f.__name__: f for f in (uniform, karras, log_snr_uniform, shifted, spaced)}


def _check_range(steps: int, lo: Any, hi: Any) -> None:
    check_steps(steps, 2)
    if concrete((lo, hi)) and not 0 < lo < hi:
        raise Refused(f"a grid needs 0 < lo < hi, sigma / alpha at its ends, got lo={lo}, hi={hi}")
