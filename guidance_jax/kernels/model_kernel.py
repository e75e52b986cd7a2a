"""Base class of kernels that call a model and step without a solver."""

from typing import Any

from guidance_jax.core import Denoiser, Kernel, Level, check_space, need
from guidance_jax.kernels.reverse import Carry


class ModelKernel(Kernel):
    """Base class: a kernel that calls its `model` and steps without a solver.

    Space, start and state are those of the model.
    """

    model: Any

    @property
    def space(self) -> Any:
        return self.model.space

    def start(self, key: Any, levels: Level, shape: tuple[int, ...]) -> Any:
        return self.model.start(key, levels, shape)

    def init(self, x: Any) -> Any:
        return Carry(x, self.model.init(x), ())

    def check(self, levels: Level, shape: tuple[int, ...], cond: Any) -> None:
        need(self, self.model, Denoiser, "the first argument")
        check_space(self, self.space)
        self.model.check(levels, shape, cond)
