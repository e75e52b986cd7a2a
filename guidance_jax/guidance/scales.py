"""Scales of guidance: a number, a function of the level, an interval, a ramp, one number per class or per sample.

The interval is that of Kynkaanniemi et al. 2024 (arXiv 2404.07724). It is a range of noise levels. So, unlike a range
of steps or of the schedule's clock, it depends neither on the number of steps nor on the schedule.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import Level, Refused, Rows, concrete, pytree, read_entry


class Scale:
    """Base class of scales that are more than a number.

    `off` is the scale at which a method changes nothing: 1 for most contrasts, 0 for gradients.
    """

    def strength(self, level: Level, cond: Any, off: float) -> Any:
        """Return the scale at `level` for the condition `cond` of one sample, a scalar."""
        raise NotImplementedError

    def active(self, level: Level) -> Any:
        """Return a boolean that is False if the scale is `off` at `level` for every condition; None if this is unknown.

        The boolean depends on the level alone. Under `vmap` over samples, a `lax.cond` on it therefore still skips the
        work.
        """
        return None

    def check(self, model: Any) -> None:
        """Raise `Refused` if the scale does not fit the denoiser `model`."""


def check_scales(owner: Any, model: Any) -> None:
    """Raise `Refused` if a strength among the fields of `owner` does not fit the denoiser `model`."""
    for value in vars(owner).values():
        if isinstance(value, Scale):
            value.check(model)


def strength(scale: Any, level: Level, cond: Any, off: float, shape: tuple[int, ...] = ()) -> Any:
    """Return the value of `scale` at `level`. `scale` is a number, a function of the level, or a `Scale`.

    `off` is the value outside a `Window`, and `shape` is the shape that the value must have.

    Raises:
      Refused: a value of another shape, which would broadcast over the entries of a sample.
    """
    value = scale(level) if callable(scale) else scale
    if isinstance(scale, Scale):
        value = scale.strength(level, cond, off)
    if isinstance(value, list | tuple) or jnp.shape(value) != shape:
        got = "a list" if isinstance(value, list | tuple) else f"shape {jnp.shape(value)}"
        raise Refused(
            f"the strength of guidance must be {'one number' if shape == () else f'of shape {shape}'} for one sample, "
            f"got {got}; for one per class write PerClass(table), for one per sample PerSample(scales)"
        )
    return value


def active(scale: Any, level: Level) -> Any:
    """Return `scale.active(level)` of a `Scale`, and None of a number or a function."""
    return scale.active(level) if isinstance(scale, Scale) else None


def when(on: Any, work: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
    """Return `work()` if `on` is True or None, else `otherwise()`. Only the chosen one runs (`lax.cond`)."""
    return work() if on is None else jax.lax.cond(on, work, otherwise)


def check_constant(owner: Any) -> None:
    """Raise `Refused` if the scale of `owner` changes from level to level."""
    if callable(owner.scale) or (isinstance(owner.scale, Scale) and not isinstance(owner.scale, PerSample | PerClass)):
        raise Refused(
            f"the scale of {type(owner).__name__} must be the same at every level, got {type(owner.scale).__name__}; "
            "write a number, PerSample(scales) or PerClass(table)"
        )


def not_negative(owner: Any) -> None:
    """Raise `Refused` if the scale of `owner` is a negative number. A traced number, a function or a `Scale` passes."""
    scale = owner.scale
    if not callable(scale) and not isinstance(scale, Scale) and concrete(scale) and np.any(np.asarray(scale) < 0):
        name = type(owner).__name__
        raise Refused(
            f"the scale (gamma) of {name} must not be negative, got {scale}; to move away from a class or a "
            "value, guide by the negative of its log p"
        )


@pytree
class Window(Scale):
    """Guide with `scale` only where lo < sigma / alpha <= hi.

    Outside, the scale is 1 for most contrasts and 0 for gradients. The extra network call or gradient is skipped there.

    Attributes:
      scale: the scale inside the window: a number, `PerClass`, or a function of the level.
      lo: the lower end of the window, a noise-to-signal ratio sigma / alpha; the window does not include it.
      hi: the upper end of the window, also sigma / alpha; the window includes it.

    Raises:
      Refused: an empty window.
    """

    scale: Any
    lo: Any
    hi: Any

    def __post_init__(self):
        numbers = all(isinstance(a, int | float | np.number | np.ndarray | jax.Array) for a in (self.lo, self.hi))
        if numbers and concrete((self.lo, self.hi)) and np.any(np.asarray(self.lo) >= np.asarray(self.hi)):
            raise Refused(
                f"the window is empty: lo={self.lo} is not below hi={self.hi}; give two values of sigma / alpha, the "
                "lower one first"
            )

    def check(self, model):
        check_scales(self, model)

    def active(self, level):
        return (self.lo < level.ratio) & (level.ratio <= self.hi)

    def strength(self, level, cond, off):
        return jnp.where(self.active(level), strength(self.scale, level, cond, off), off)


@pytree
class Ramp(Scale):
    """Let the scale rise from noise to data (Wang et al. 2024, arXiv 2404.13040, section 4).

        off + (scale - off) (power + 1) (1 - r)^power,   r = sigma / (alpha + sigma)

    r is the clock of rectified flow, which is defined on every schedule. The scale has the mean `scale` over r in
    [0, 1]. It is constant at power 0. At power 1 it is the linear schedule of the paper.

    Attributes:
      scale: the mean of the scale over r: a number, `Window` or `PerClass`.
      power: how steeply the scale rises; 0 for a constant scale.
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


def refuse_nan(name: str, numbers: Any) -> None:
    """Raise `Refused` if one of the `numbers` is known and NaN. `sample` checks the single numbers of a kernel."""
    if concrete(numbers) and np.isnan(np.asarray(numbers)).any():
        raise Refused(f"a number in {name} is NaN; give every number of a kernel a value")


@pytree
class PerSample(Scale, Rows):
    """Give each sample its own scale: `scales[i]` for sample i of `generate`, `generate_on` or `populations`.

    Attributes:
      scales: (n,), one number per random key; a scalar in `sample` and in functions of one sample.

    Raises:
      Refused: a scale that is NaN.
    """

    scales: Any

    def check(self, model):
        refuse_nan("scales of PerSample", self.scales)

    def strength(self, level, cond, off):
        return self.scales


@pytree
class PerClass(Scale):
    """Give each class its own scale, `table[label]`. Conditions must be integer labels.

    Attributes:
      table: (num_classes,), one scale per label. If a traced label is outside the table, its scale is NaN.

    Raises:
      Refused: a table that is not a vector, or whose length is neither the model's number of classes nor one more, for
        the null label; a scale that is NaN.
    """

    table: Any

    def check(self, model):
        shape, num_classes = jnp.shape(self.table), model.num_classes
        if len(shape) != 1 or num_classes not in (None, shape[0], shape[0] - 1):
            wanted = "(num_classes,)" if num_classes is None else f"({num_classes},)"
            raise Refused(f"PerClass takes one scale for each class, {wanted}, got a table of shape {shape}")
        refuse_nan("table of PerClass", self.table)

    def strength(self, level, cond, off):
        return read_entry(jnp.asarray(self.table), cond)
