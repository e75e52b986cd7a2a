"""Guidance distillation (Meng et al. 2023, arXiv 2210.03142, eq. 2): one call says what a guided model says in two.

E_w | D_student(x_t, c, w) - D_guided(x_t, c; w) |^2,   w uniform
tokens: the KL from the guided to the student's distribution, summed over the positions that are decided
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import GaussianDiffusion, Refused, kl_divergence, normal, pytree, static
from guidance_jax.schedules import Schedule
from guidance_jax.training.losses import draw


@pytree
class Distillation:
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

    def __post_init__(self):
        for part, found in (("student", self.student), ("teacher", self.teacher)):
            names = {f.name for f in dataclasses.fields(found)} if dataclasses.is_dataclass(found) else set()
            if "scale" not in names:
                raise Refused(f"the {part} of a distillation has a scale, got {type(found).__name__}")

    def __call__(self, params: Any, key: Any, x0: Any, label: Any) -> Any:
        first, second, third, fourth = jax.random.split(key, 4)
        level = draw(first, self.schedule)
        scale = jax.random.uniform(third, minval=self.scales[0], maxval=self.scales[1])
        student = dataclasses.replace(self.student, params=params, scale=scale)
        teacher = dataclasses.replace(self.teacher, scale=scale)
        space = student.space
        gaussian = isinstance(space, GaussianDiffusion)
        x = level.noise(x0, normal(second, x0)) if gaussian else space.corrupt(second, x0, level)
        learned, _ = student(x, level, label, student.init(x), fourth)
        taught, _ = jax.lax.stop_gradient(teacher(x, level, label, teacher.init(x), fourth))
        if gaussian:
            return jnp.mean((learned.eps - taught.eps) ** 2)
        return kl_divergence(taught.log_p, learned.log_p, space.free(x)) / len(x0)
