"""Guidance distillation (Meng et al. 2023, arXiv 2210.03142): one call says what a guided model says in two.

E_w | D_student(x_t, c, w) - D_guided(x_t, c; w) |^2,   w uniform
tokens: the KL from the guided to the student's distribution, summed over the open positions, over the length
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
    """What distillations share: a student and a teacher, asked at one scale, and the distance of what they say."""

    student: Any
    teacher: Any
    scales: tuple[float, float]

    def __post_init__(self):
        for part, found in (("student", self.student), ("teacher", self.teacher)):
            names = {f.name for f in dataclasses.fields(found)} if dataclasses.is_dataclass(found) else set()
            if "scale" not in names:
                raise Refused(f"the {part} of a distillation has a scale, got {type(found).__name__}")

    def pair(self, params: Any, key: Any) -> tuple[Any, Any]:
        """(student, teacher), at one scale."""
        scale = jax.random.uniform(key, minval=self.scales[0], maxval=self.scales[1])
        student = dataclasses.replace(self.student, params=params, scale=scale)
        return student, dataclasses.replace(self.teacher, scale=scale)

    def distance(self, student: Any, taught: Any, x: Any, level: Any, label: Any, key: Any) -> Any:
        """Of the student's prediction at x to the teacher's."""
        learned, _ = student(x, level, label, student.init(x), key)
        taught = jax.lax.stop_gradient(taught)
        if isinstance(student.space, GaussianDiffusion):
            return jnp.mean((learned.eps - taught.eps) ** 2)
        return kl_divergence(taught.log_p, learned.log_p, student.space.free(x)) / len(x)


@pytree
class Distillation(Taught):
    """A loss for `fit`: the student at the scale w against the teacher at it, on x_t of the data.

    A pytree, so that the teacher's parameters are an argument of the program and no part of it. The squared distance is
    of the noise eps, which weighs levels as `Denoising` of `eps` does.

    Attributes:
      student: a `Network`, or any denoiser with fields `params` and `scale`, whose params are what is trained.
      teacher: guidance with a field `scale`: `CFG(model, null, 1.0)`, `Autoguidance`, `Classifier`, ...
      schedule: of the corruption.
      scales: (least, most) that the student learns.

    Raises:
      Refused: a student or a teacher without a scale.
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
    """`Distillation` where the guided teacher goes, in the place of noisy data (AGD, Perez Jensen & Sadat 2025,
    arXiv 2503.07274).

    Of the data it looks at the labels, and at the shape, alone. Every step of the teacher's chain is a lesson: n + 1
    levels, n calls of the student and n of the teacher. AGD trains small adapters so: give `fit` an optimizer that
    leaves the other parameters alone, `optax.multi_transform`.

    Attributes:
      student, teacher, scales: as in `Distillation`.
      solver: of the chain.
      levels: its levels.

    Raises:
      Refused: as `Distillation`; no solver.
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
