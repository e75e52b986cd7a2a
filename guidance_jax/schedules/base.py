"""The base of all schedules: levels from the clock t, the clock from the log-SNR, and a check of given levels."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core.levels import Level, Refused
from guidance_jax.core.pytrees import concrete


def check_steps(steps: Any, least: int = 1) -> None:
    """Raise `Refused` unless `steps` is a whole number of at least `least`."""
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < least:
        raise Refused(f"the number of steps must be a whole number, {least} or more, got {steps!r}; write levels(30)")


class Schedule:
    """The base class of schedules. A subclass defines `__call__` and `at_log_snr`."""

    start: ClassVar[float] = 0.999  # the noisiest t of `levels` by default

    def __call__(self, t: Any) -> Level:
        raise NotImplementedError

    def at_log_snr(self, log_snr: Any) -> Any:
        """Return the clock t at which log(alpha^2 / sigma^2) is `log_snr`."""
        raise NotImplementedError

    def levels(self, steps: Any, start: float | None = None) -> Level:
        """Return `steps + 1` levels, uniform in t from `start` (None: the schedule's own) to the clean level.

        Raises:
          Refused: steps that are not a whole number of one or more.
        """
        check_steps(steps)
        return self(jnp.linspace(self.start if start is None else start, 0.0, steps + 1))

    def check(self, levels: Level, what: str) -> None:
        """Raise `Refused` unless the noisy ones of `levels` are on this schedule. Traced levels are not checked.

        `what` begins the error, for example "the network was trained on".
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
                f"{what} {self}, but the levels are on another schedule (off by {off:.2g}); write {self}.levels(...) "
                f"or OnSchedule(model, {self})"
            )

    def by_ratio(self, ratios: Any) -> Level:
        """Return the levels at which sigma / alpha is `ratios` (positive, falling), then the clean level.

        Raises:
          Refused: ratios beyond those that the schedule has.
        """
        t = self.at_log_snr(-2 * jnp.log(jnp.asarray(ratios)))
        return self(jnp.append(t, jnp.zeros((), t.dtype)))
