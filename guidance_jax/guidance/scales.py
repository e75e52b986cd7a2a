"""Strengths of guidance: a number, a function of the level, a guidance interval, a ramp, one number per class.

Interval: Kynkaanniemi et al. 2024 (arXiv 2404.07724). Their window is in noise level, which is the only definition that
does not move with the number of steps; fractions of steps and process time do.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import Level, Refused, Rows, concrete, pytree, read_entry


class Scale:
    """A strength that is more than a number. `off` is the method's identity: 1 for contrasts, 0 for gradients."""

    def strength(self, level: Level, cond: Any, off: float) -> Any:
        """The number at `level` for the condition of one sample."""
        raise NotImplementedError

    def active(self, level: Level) -> Any:
        """A boolean that is False where it is `off` whatever the condition is, or None if that cannot be known.

        It depends on the level alone, so that under `vmap` over samples a `lax.cond` on it still skips the work.
        """
        return None

    def check(self, model: Any) -> None:
        """Raise `Refused` if it cannot be the strength for the denoiser `model`."""


def check_scales(owner: Any, model: Any) -> None:
    """Raise `Refused` if a strength among the fields of `owner` does not fit the denoiser `model`."""
    for value in vars(owner).values():
        if isinstance(value, Scale):
            value.check(model)


def strength(scale: Any, level: Level, cond: Any, off: float, shape: tuple[int, ...] = ()) -> Any:
    """The value of `scale` here: of a `Scale`, of a function of the level, or the number that it is.

    Raises:
      Refused: an array of another `shape`, which would broadcast over the entries of a sample.
    """
    value = scale(level) if callable(scale) else scale
    if isinstance(scale, Scale):
        value = scale.strength(level, cond, off)
    if isinstance(value, list | tuple) or jnp.shape(value) != shape:
        got = "a list" if isinstance(value, list | tuple) else f"shape {jnp.shape(value)}"
        raise Refused(
            f"the strength of guidance is {'one number' if shape == () else f'of shape {shape}'} for one sample, got "
            f"{got}; one per class is PerClass(table), one per sample PerSample(scales)"
        )
    return value


def active(scale: Any, level: Level) -> Any:
    """`Scale.active`, None for numbers and functions."""
    return scale.active(level) if isinstance(scale, Scale) else None


def when(on: Any, work: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
    """`work()` if `on`, else `otherwise()`, really skipping the other; `on` None means always."""
    return work() if on is None else jax.lax.cond(on, work, otherwise)


def check_constant(owner: Any) -> None:
    """Raise `Refused` if the scale of `owner` is one that changes from level to level."""
    if callable(owner.scale) or (isinstance(owner.scale, Scale) and not isinstance(owner.scale, PerSample | PerClass)):
        raise Refused(
            f"the scale of {type(owner).__name__} is the same at every level, got {type(owner.scale).__name__}; write "
            "a number, PerSample(scales) or PerClass(table)"
        )


def not_negative(owner: Any) -> None:
    """Raise `Refused` if the scale of `owner` is known and negative."""
    scale = owner.scale
    if not callable(scale) and not isinstance(scale, Scale) and concrete(scale) and np.any(np.asarray(scale) < 0):
        name = type(owner).__name__
        raise Refused(
            f"the scale (gamma) of {name} must not be negative, got {scale}; to avoid a class guide to the others"
        )


@pytree
class Window(Scale):
    """`scale` where lo < sigma / alpha <= hi, else off (1 for most contrasts, 0 for gradients): the work is skipped.

    Attributes:
      scale: a number, `PerClass`, or a function of the level.
      lo: the lower end, a noise-to-signal ratio sigma / alpha; not inside.
      hi: the upper end; inside.

    Raises:
      Refused: an empty window.
    """

    scale: Any
    lo: Any
    hi: Any

    def __post_init__(self):
        numbers = all(isinstance(a, int | float | np.number | np.ndarray | jax.Array) for a in (self.lo, self.hi))
        if numbers and concrete((self.lo, self.hi)) and np.any(np.asarray(self.lo) >= np.asarray(self.hi)):
            raise Refused(f"the window is empty: lo={self.lo} is not below hi={self.hi}; give sigma / alpha, lo first")

    def check(self, model):
        check_scales(self, model)

    def active(self, level):
        return (self.lo < level.ratio) & (level.ratio <= self.hi)

    def strength(self, level, cond, off):
        return jnp.where(self.active(level), strength(self.scale, level, cond, off), off)


@pytree
class Ramp(Scale):
    """A scale that rises towards the data (Wang et al. 2024, arXiv 2404.13040, section 4): least where noise is most.

        off + (scale - off) (power + 1) (1 - r)^power,   r = sigma / (alpha + sigma)

    r is the clock of rectified flow, which every schedule can read; the mean over it is that of the constant `scale`,
    which power 0 is. power 1 is their linear schedule.

    Attributes:
      scale: the mean strength: a number, `Window` or `PerClass`.
      power: how steeply it rises.
    """

    scale: Any
    power: Any = 1.0

    def check(self, model):
        check_scales(self, model)

    def active(self, level):
        return active(self.scale, level)

    def strength(self, level, cond, off):
        rise = (self.power + 1) * (level.alpha / (level.alpha + level.sigma)) ** self.power
        return off + (strength(self.scale, level, cond, off) - off) * rise


@pytree
class PerSample(Scale, Rows):
    """One strength for each sample of `generate`, `generate_on` or `populations`: sample i is guided at `scales[i]`.

    Attributes:
      scales: (n,), one number per key. Inside `sample`, and for functions of one sample, one number.
    """

    scales: Any

    def strength(self, level, cond, off):
        return self.scales


@pytree
class PerClass(Scale):
    """`table[label]`: one scale per class, for conditions that are integer labels.

    Attributes:
      table: (num_classes,), one strength per label; a label outside it, traced, is guided at NaN.

    Raises:
      Refused: a table that is no vector, or not of the model's number of classes (or one more, for the null label).
    """

    table: Any

    def check(self, model):
        shape, num_classes = jnp.shape(self.table), model.num_classes
        if len(shape) != 1 or num_classes not in (None, shape[0], shape[0] - 1):
            wanted = "(num_classes,)" if num_classes is None else f"({num_classes},)"
            raise Refused(f"PerClass takes one scale for each class, {wanted}, got a table of shape {shape}")

    def strength(self, level, cond, off):
        return read_entry(jnp.asarray(self.table), cond)
