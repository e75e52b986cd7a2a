"""A description of what a network was trained for: its shape, schedule and labels.

With a `Domain`, wrong shapes, labels, schedules and pairings are refused with one line instead of giving wrong images.
Without it, nothing is checked.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import Denoiser, Guide, Level, Refused, check_space, concrete, innermost, nan_unless, need
from guidance_jax.schedules import Schedule


@dataclass(frozen=True)
class Domain:
    """Describe what a network was trained for. Checkpoints contain it.

    Attributes:
      shape: the shape of one sample, for example (32, 32, 3).
      schedule: the noise schedule whose clock the network gets; None if unknown.
      num_classes: the number of labels, which are 0 to num_classes - 1; None for a model without labels.
      null_label: the label that means "unconditional" (conditioning dropout); None if the model has none.
      text_length: the number of tokens of a caption, for a model with captions; None without captions.
      context: the shapes of an encoded condition by name, (("context", (77, 768)),) for example; None without one.
      guided_channels: the number of leading channels that contrasts guide; the others stay conditional. None for all.
        DiT, for example, guides three of four.

    Raises:
      Refused: in the methods `check...`, samples, labels and levels that the network was not made for.
    """

    shape: tuple[int, ...]
    schedule: Schedule | None = None
    num_classes: int | None = None
    null_label: int | None = None
    guided_channels: int | None = None
    text_length: int | None = None
    context: tuple[tuple[str, tuple[int, ...]], ...] | None = None

    def check(self, levels: Level, shape: tuple[int, ...], cond: Any) -> None:
        """Raise unless samples of `shape` with the labels `cond` on `levels` are what the network was made for."""
        self.check_shape(shape)
        self.check_label(cond)
        self.check_levels(levels)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise unless `shape` is the shape of the network's samples."""
        if tuple(shape) != tuple(self.shape):
            raise Refused(
                f"the network takes samples of shape {self.shape}, got {tuple(shape)}; pass the shape of the network"
            )

    def check_label(self, label: Any) -> None:
        """Raise unless `label` (any shape) holds labels or captions of this domain, if the domain has any."""
        if self.context is not None and (self.text_length is None or (isinstance(label, dict) and "context" in label)):
            self.check_context(label)
        elif self.text_length is not None:
            tokens = label.get("tokens") if isinstance(label, dict) else label
            if tokens is None or jnp.shape(tokens)[-1:] != (self.text_length,):
                got = None if tokens is None else jnp.shape(tokens)
                raise Refused(
                    f"the model is conditional on captions of {self.text_length} tokens, -1 for padding, got {got}; "
                    f"an empty caption is jnp.full({self.text_length}, -1)"
                )
        if self.num_classes is None:
            return
        if label is None:
            hint = f"jnp.full(n, {self.null_label})" if self.null_label is not None else "jnp.zeros(n, int)"
            raise Refused(f"the model is conditional on {self.num_classes} classes, got cond=None; write cond={hint}")
        if not jnp.issubdtype(jnp.result_type(label), jnp.integer):
            raise Refused(f"labels must be integers, got {jnp.result_type(label)}; write label.astype(int)")
        if concrete(label):
            values = np.asarray(label)
            bad = (values < 0) | (values >= self.num_classes)
            if self.null_label is not None:
                bad &= values != self.null_label
            if bad.any():
                null = "" if self.null_label is None else f" (or {self.null_label}, unconditional)"
                raise Refused(
                    f"labels go from 0 to {self.num_classes - 1}{null}, got {values[bad].flat[0]}; use one of those"
                )

    def check_context(self, cond: Any) -> None:
        """Raise unless `cond` holds the encoded condition that the model knows."""
        shapes = dict(self.context or ())
        got = {k: jnp.shape(v) for k, v in cond.items()} if isinstance(cond, dict) else type(cond).__name__
        fits = isinstance(got, dict) and got.keys() >= shapes.keys()
        if not fits or any(got[k][-len(shape) :] != shape for k, shape in shapes.items()):  # type: ignore[index]
            raise Refused(
                f"the model is conditional on encoded captions {shapes}, got {got}; write pipeline.conditions([...])"
            )

    def check_levels(self, levels: Level) -> None:
        """Raise if `levels` are not on the schedule whose clock the network knows."""
        if self.schedule is not None:
            self.schedule.check(levels, "the network was trained on")


def network_condition(domain: Domain | None, cond: Any) -> Any:
    """Return `cond` as the network gets it; None if its domain has no classes and no text, so only guides use it."""
    if domain is not None and (domain.num_classes, domain.text_length, domain.context) == (None, None, None):
        return None
    if domain is not None and domain.num_classes is not None and jnp.ndim(cond) != 0:
        raise Refused(f"a label is one integer for one sample, got shape {jnp.shape(cond)}; pass labels of shape (n,)")
    return jax.tree.map(jnp.asarray, cond)


def unless_unknown(domain: Domain | None, cond: Any, output: Any) -> Any:
    """Return a network's `output`; NaN if `domain` does not have the label `cond`, since traced labels pass checks."""
    if domain is None or domain.num_classes is None:
        return output
    known = (cond >= 0) & (cond < domain.num_classes)
    if domain.null_label is not None:
        known = known | (cond == domain.null_label)
    return jax.tree.map(lambda a: nan_unless(known, a), output)


def same_domain(model: Denoiser, classifier: Guide) -> None:
    """Raise if a model and a classifier both have a domain and these differ in schedule, classes or shape."""
    a, b = model.domain, classifier.domain
    if a is None or b is None:
        return
    if None not in (a.schedule, b.schedule) and a.schedule != b.schedule:
        raise Refused(
            f"the model was trained on {a.schedule}, the classifier on {b.schedule}; train them on the same schedule "
            f"or write OnSchedule(classifier, {b.schedule})"
        )
    if None not in (a.num_classes, b.num_classes) and a.num_classes != b.num_classes:
        raise Refused(f"the model has {a.num_classes} classes, the classifier {b.num_classes}; use a matching pair")
    if a.shape != b.shape:
        raise Refused(f"the model takes samples of shape {a.shape}, the classifier {b.shape}; use a matching pair")


def check_guide(
    owner: Any, model: Any, guide: Any, levels: Level, shape: tuple[int, ...], cond: Any, *, noisy: bool = False
) -> None:
    """Raise unless `guide` fits the `model` that it steers in `owner`. `noisy`: the guide gets noisy samples."""
    need(owner, model, Denoiser, "the model")
    need(owner, guide, Guide, "the guide")
    if noisy and innermost(guide).clean:
        name, own = type(owner).__name__, type(innermost(guide)).__name__
        raise Refused(
            f"{name} calls its guide with noisy samples, but {own} is for clean samples; write Reconstruction(model, "
            f"{own}(...)), or train a classifier of noisy samples"
        )
    check_space(innermost(guide), model.space)
    same_domain(model, guide)
    guide.check(levels, shape, cond)
