"""What a network was made for: its shape, schedule and labels.

With a `Domain`, wrong shapes, labels, schedules and pairings are refused with one line instead of giving wrong images;
without it, nothing is checked.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import Level, check, concrete
from guidance_jax.schedules import Schedule


@dataclass(frozen=True)
class Domain:
    """What a network was trained for; checkpoints carry it.

    Attributes:
      shape: the shape of one sample, for example (32, 32, 3).
      schedule: the noise schedule whose clock the network is told; None if unknown.
      num_classes: how many labels there are, 0 to num_classes - 1; None for a model without labels.
      null_label: the label that means "unconditional" (conditioning dropout); None if the model has none.
      text_length: how many tokens a caption has, for a model of text, which has no classes; None without text.
      guided_channels: how many leading channels contrasts guide, the others staying conditional; None for all (DiT
        guides three of four, for example).
    """

    shape: tuple[int, ...]
    schedule: Schedule | None = None
    num_classes: int | None = None
    null_label: int | None = None
    guided_channels: int | None = None
    text_length: int | None = None

    def check(self, levels: Level, shape: tuple[int, ...], cond: Any) -> None:
        """Raise unless samples of `shape` with the labels `cond` on `levels` are what the network was made for."""
        self.check_shape(shape)
        self.check_label(cond)
        self.check_levels(levels)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        if tuple(shape) != tuple(self.shape):
            raise ValueError(f"the network takes samples of shape {self.shape}, got {tuple(shape)}; pass that shape")

    def check_label(self, label: Any) -> None:
        """Raise unless `label` (any shape) holds labels, or captions, of this domain; nothing to check without."""
        if self.text_length is not None:
            tokens = label.get("tokens") if isinstance(label, dict) else label
            if tokens is None or jnp.shape(tokens)[-1:] != (self.text_length,):
                got = None if tokens is None else jnp.shape(tokens)
                raise ValueError(
                    f"the model is conditional on captions of {self.text_length} tokens, -1 for padding, got {got}; "
                    f"an empty caption is jnp.full({self.text_length}, -1)"
                )
        if self.num_classes is None:
            return
        if label is None:
            hint = f"jnp.full(n, {self.null_label})" if self.null_label is not None else "jnp.zeros(n, int)"
            raise ValueError(
                f"the model is conditional on {self.num_classes} classes, got cond=None; write cond={hint}"
            )
        if not jnp.issubdtype(jnp.result_type(label), jnp.integer):
            raise ValueError(f"labels must be integers, got {jnp.result_type(label)}; write label.astype(int)")
        if concrete(label):
            values = np.asarray(label)
            bad = (values < 0) | (values >= self.num_classes)
            if self.null_label is not None:
                bad &= values != self.null_label
            if bad.any():
                null = "" if self.null_label is None else f" (or {self.null_label}, unconditional)"
                raise ValueError(
                    f"labels go from 0 to {self.num_classes - 1}{null}, got {values[bad].flat[0]}; "
                    f"use a label below {self.num_classes}"
                )

    def check_levels(self, levels: Level) -> None:
        """Raise if `levels` are not on the schedule whose clock the network knows."""
        if self.schedule is None or not concrete(levels):
            return
        with jax.ensure_compile_time_eval():  # the caller may be inside a jit of its own
            noisy = np.asarray(levels.sigma) > 0
            got = levels.at(noisy)
            own = self.schedule(got.t)
        off = max(
            float(np.max(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)) / np.maximum(np.abs(b), 1)))
            for a, b in zip(got[1:], own[1:], strict=True)
        )
        if off > 1e-3:
            raise ValueError(
                f"the network was trained on {self.schedule}, the levels are on another schedule (off by {off:.2g}); "
                f"write {self.schedule}.levels(...) or OnSchedule(model, {self.schedule})"
            )


def told(domain: Domain | None, cond: Any) -> Any:
    """What of `cond` a network is told: nothing if its domain has no classes and no text; a classifier may need it."""
    if domain is not None and domain.num_classes is None and domain.text_length is None:
        return None
    return jax.tree.map(jnp.asarray, cond)


def same_process(model: Any, classifier: Any) -> None:
    """Raise if a model and a classifier that both say what they were trained for say different things."""
    a, b = getattr(model, "domain", None), getattr(classifier, "domain", None)
    if a is None or b is None:
        return
    if None not in (a.schedule, b.schedule) and a.schedule != b.schedule:
        raise ValueError(
            f"the model was trained on {a.schedule}, the classifier on {b.schedule}; train them on one schedule or "
            f"write OnSchedule(classifier, {b.schedule})"
        )
    if None not in (a.num_classes, b.num_classes) and a.num_classes != b.num_classes:
        raise ValueError(f"the model has {a.num_classes} classes, the classifier {b.num_classes}; use a matching pair")
    if a.shape != b.shape:
        raise ValueError(f"the model takes samples of shape {a.shape}, the classifier {b.shape}; use a matching pair")


def check_pair(model: Any, guide: Any, levels: Level, shape: tuple[int, ...], cond: Any) -> None:
    """Raise unless a model and its guide fit each other and each takes what it will be given."""
    same_process(model, guide)
    check(guide, levels, shape, cond)
    check(model, levels, shape, cond)
