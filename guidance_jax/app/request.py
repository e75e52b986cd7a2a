"""What `guidance-jax sample` is asked for: checkpoints, an algorithm by name, a scale, steps, labels."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from guidance_jax.checkpoints.config import build, read_config
from guidance_jax.checkpoints.load import load
from guidance_jax.core import Level, Refused
from guidance_jax.guidance.cfg import CFG
from guidance_jax.guidance.classifier import Classifier
from guidance_jax.guidance.clip import Clip
from guidance_jax.kernels.mean_shift import MeanShift
from guidance_jax.kernels.reverse import Reverse
from guidance_jax.models.adapters import Microbatched, Unconditional
from guidance_jax.models.network import Network, NoisyClassifier
from guidance_jax.models.parameterizations import LearnedRange
from guidance_jax.schedules import DDPM as Betas
from guidance_jax.schedules import VE, Schedule, karras
from guidance_jax.solvers.ddim import DDIM
from guidance_jax.solvers.ddpm import DDPM, fixed_small, learned_range


def schedule_of(model: Network | NoisyClassifier) -> Schedule:
    """The schedule that a network was trained on.

    Raises:
      Refused: a network that does not say.
    """
    if model.domain is None or model.domain.schedule is None:
        raise Refused("the network does not say which schedule it was trained on; give it a Domain with one")
    return model.domain.schedule


def named(algorithm: str, model: Network, classifier: Any, scale: Any, levels: Level) -> Any:
    """The kernel called `algorithm`: "score", "mean" (classifier guidance), "cfg" or "plain" (no guidance).

    Classifier guidance steers the unconditional model where there is one (a null label), else the model as it is, with
    its label: so do OpenAI's conditional models. The clean estimate is clipped to the images' range, after guidance in
    the score form and for CFG, before it in the mean form, which does not touch the estimate. "mean" samples with the
    model's own variance if it learned one.

    Raises:
      Refused: another name, a missing classifier, or CFG of a model without a null label.
    """
    names = ("score", "mean", "cfg", "plain")
    if algorithm not in names:
        raise Refused(f"--algorithm is one of {', '.join(names)}, got {algorithm!r}; write --algorithm score")
    null = None if model.domain is None else model.domain.null_label
    if algorithm == "plain":
        return Reverse(Clip(model), DDIM())
    if algorithm == "cfg":
        if null is None:
            raise Refused(
                "cfg needs a model with a null label, trained with conditioning dropout; write --algorithm score"
            )
        return Reverse(Clip(CFG(model, null, scale)), DDIM())
    if classifier is None:
        raise Refused(f"--algorithm {algorithm} needs a classifier beside the denoiser; write --algorithm plain")
    steered = model if null is None else Unconditional(model, null)
    if algorithm == "score":
        return Reverse(Clip(Classifier(steered, classifier, scale)), DDIM())
    learned = isinstance(model.parameterization, LearnedRange)
    solver = DDPM.like_openai(levels, learned_range) if learned else DDPM(fixed_small)
    return MeanShift(Clip(steered), solver, classifier, scale)


class Plan(NamedTuple):
    """What `generate` needs beside keys."""

    kernel: Any
    levels: Level
    shape: tuple[int, ...]
    labels: np.ndarray
    classes: int | None


@dataclasses.dataclass(frozen=True)
class Request:
    """Everything that decides the samples of a folder with `denoiser` and, if need be, `classifier`.

    Attributes:
      models: the folder.
      algorithm, scale: see `named`.
      label: one class, or None for all in turn.
      steps: a number, or OpenAI's respacing such as "ddim25" for their schedules.
      seed: of the keys.
      dtype: in which networks compute, for example "bfloat16"; None for float32.
    """

    models: str
    algorithm: str = "score"
    scale: float = 2.0
    label: int | None = None
    steps: str = "50"
    seed: int = 0
    dtype: str | None = None

    def about(self) -> dict[str, Any]:
        """The request, what it costs, and the model's configuration: for manifests and protocols."""
        found = read_config(Path(self.models) / "denoiser")
        steps = len(self.levels(build(found["domain"]).schedule).t) - 1
        calls = {"model": steps * (2 if self.algorithm == "cfg" else 1)}
        if self.algorithm in ("score", "mean"):
            calls["classifier gradient"] = steps
        solver = "DDPM, ancestral" if self.algorithm == "mean" else "DDIM, eta 0"
        return vars(self) | {"solver": solver, "calls": calls, "configuration": found}

    def levels(self, schedule: Schedule) -> Level:
        """The levels of `steps` on the model's schedule; EDM's grid where noise is unbounded (`VE`)."""
        if isinstance(schedule, Betas):
            return schedule.levels(self.steps)
        if not self.steps.isdigit():
            raise Refused(f"--steps is a number for a model on {schedule}, got {self.steps!r}; write --steps 50")
        steps = int(self.steps)
        return karras(schedule, steps) if isinstance(schedule, VE) else schedule.levels(steps)

    def plan(self, n: int, *, remat: bool = False, microbatch: int | None = None) -> Plan:
        """The kernel, levels and labels of `n` samples; `remat` and `microbatch` save memory and change no sample.

        Raises:
          Refused: checkpoints that are missing or do not fit together, or a request that they cannot honour.
        """
        guided, folder = self.algorithm in ("score", "mean"), Path(self.models)
        if microbatch is not None and not guided:
            raise Refused(f"--microbatch is of a classifier's gradient, got --algorithm {self.algorithm}")
        model: Network = load(folder / "denoiser", Network, self.dtype, remat)
        classifier: Any = None
        if guided and (folder / "classifier").exists():
            classifier = load(folder / "classifier", NoisyClassifier, self.dtype, remat)
        schedule, domain = schedule_of(model), model.domain
        assert domain is not None  # it has a schedule
        if domain.text_length is not None:
            raise Refused("the model is conditional on captions; pass tokens to generate, one row a sample")
        levels = self.levels(schedule)
        classes = domain.num_classes
        if classes is None and classifier is not None and classifier.domain is not None:
            classes = classifier.domain.num_classes
        labels = np.arange(n) % (classes or 1) if self.label is None else np.full(n, self.label)
        if microbatch is not None and classifier is not None:
            classifier = Microbatched(classifier, microbatch)
        kernel = named(self.algorithm, model, classifier, self.scale, levels)
        return Plan(kernel, levels, domain.shape, labels.astype(np.int32), classes)
