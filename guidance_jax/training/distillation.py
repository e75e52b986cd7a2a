"""Guidance distillation (Meng et al. 2023, arXiv 2210.03142): one student call replaces the guided model's two calls.

E_w | D_student(x_t, c, w) - D_guided(x_t, c; w) |^2,   w uniform
tokens: KL(guided | student), summed over the undecided positions and divided by the length
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import GaussianDiffusion, Level, Refused, Solver, kl_divergence, need, normal, pytree, static
from guidance_jax.kernels.reverse import evaluator
from guidance_jax.schedules import Schedule
from guidance_jax.training.losses import draw


class Taught:
    """Base class of the distillations: draw one scale for student and teacher, and compare their predictions."""

    student: Any
    teacher: Any
    scales: tuple[float, float]

    def __post_init__(self):
        for part, found in (("student", self.student), ("teacher", self.teacher)):
            names = {f.name for f in dataclasses.fields(found)} if dataclasses.is_dataclass(found) else set()
            if "scale" not in names:
                raise Refused(f"the {part} of a distillation has a scale, got {type(found).__name__}")

    def pair(self, params: Any, key: Any) -> tuple[Any, Any]:
        """Return (student, teacher) at one scale, drawn uniformly from `scales`; the student has `params`."""
        scale = jax.random.uniform(key, minval=self.scales[0], maxval=self.scales[1])
        student = dataclasses.replace(self.student, params=params, scale=scale)
        return student, dataclasses.replace(self.teacher, scale=scale)

    def distance(self, student: Any, taught: Any, x: Any, level: Any, label: Any, key: Any) -> Any:
        """Return the distance from the student's prediction at x to the teacher's prediction `taught`."""
        learned, _ = student(x, level, label, student.init(x), key)
        taught = jax.lax.stop_gradient(taught)
        if isinstance(student.space, GaussianDiffusion):
            return jnp.mean((learned.eps - taught.eps) ** 2)
        return kl_divergence(taught.log_p, learned.log_p, student.space.free(x)) / len(x)


@pytree
class Distillation(Taught):
    """Train the student at a random scale w to predict what the teacher predicts at w, on noised data x_t; for `fit`.

    The loss is a pytree, so that the teacher's parameters are an argument of the compiled program, not constants in
    it. For images the loss is the mean squared difference of the noise eps: levels weigh as in `Denoising` with `eps`.

    Attributes:
      student: a `Network`, or any denoiser with fields `params` and `scale`; its `params` are trained.
      teacher: guidance with a field `scale`: `CFG(model, null, 1.0)`, `Autoguidance`, `Classifier`, ...
      schedule: the schedule of the noise that is added to the data.
      scales: (least, most), the range from which w is drawn uniformly.

    Raises:
      Refused: a student or a teacher without a field `scale`.
    """

    student: Any
    teacher: Any
    schedule: Schedule = static()
    scales: tuple[float, float] = static(default=(1.0, 4.0))

    def __call__(self, params: Any, key: Any, x0: Any, label: Any) -> Any:
        level_key, noise_key, pair_key, model_key = jax.random.split(key, 4)
        level, space = draw(level_key, self.schedule), self.student.space
        if isinstance(space, GaussianDiffusion):
            x = level.noise(x0, normal(noise_key, x0))
        else:
            x = space.corrupt(noise_key, x0, level)
        student, teacher = self.pair(params, pair_key)
        taught, _ = teacher(x, level, label, teacher.init(x), model_key)
        return self.distance(student, taught, x, level, label, model_key)


@pytree
class TrajectoryDistillation(Taught):
    """Distil on the guided teacher's own sampling trajectories instead of noised data (AGD, Perez Jensen & Sadat 2025,
    arXiv 2503.07274).

    Only the labels and the shape of the data are used. The loss is the mean over the n steps of one trajectory with
    n + 1 levels. It takes n calls of the student and n of the teacher, more if the solver calls the teacher within a
    step. AGD trains small adapters in this way: give `fit` an optimizer that freezes the other parameters, with
    `optax.multi_transform`.

    Attributes:
      student, teacher, scales: as in `Distillation`.
      solver: the solver of the teacher's trajectory.
      levels: the n + 1 levels of the trajectory, from noise to data.

    Raises:
      Refused: a student or a teacher without a field `scale`; a `solver` that is no `Solver`.
    """

    student: Any
    teacher: Any
    solver: Any
    levels: Level
    scales: tuple[float, float] = static(default=(1.0, 4.0))

    def __post_init__(self):
        super().__post_init__()
        need(self, self.solver, Solver, "the solver")

    def __call__(self, params: Any, key: Any, x0: Any, label: Any) -> Any:
        start_key, pair_key, step_key = jax.random.split(key, 3)
        student, teacher = self.pair(params, pair_key)
        levels = self.levels
        x = teacher.start(start_key, levels, jnp.shape(x0))

        def step(carry, inputs):
            x, memory, history = carry
            t, s, key = inputs
            model_key, solver_key = jax.random.split(key)
            taught, memory = teacher(x, t, label, memory, model_key)
            loss = self.distance(student, taught, x, t, label, model_key)
            evaluate = evaluator(teacher, label, memory, model_key)
            x, history = self.solver.step(taught, t, s, evaluate, history, solver_key)
            return jax.lax.stop_gradient((x, memory, history)), loss

        inputs = levels.at(slice(None, -1)), levels.at(slice(1, None)), jax.random.split(step_key, len(levels.t) - 1)
        _, losses = jax.lax.scan(step, (x, teacher.init(x), self.solver.init(x)), inputs)
        return jnp.mean(losses)
