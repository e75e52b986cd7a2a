"""What is made from one part of its own kind: whatever it does not change, it delegates."""

from typing import Any, ClassVar

from guidance_jax.core.contracts import Denoiser, Kernel, check_space, need
from guidance_jax.core.levels import Level
from guidance_jax.core.spaces import Space


class Wrapper:
    """A part made from `inner`: a denoiser from a denoiser, a guide from a guide, a kernel from a kernel.

    State, space, domain, start and checks are those of `inner`; one that changes nothing is transparent. `wraps` is
    what `inner` must be, `takes` the class of spaces it is for.
    """

    inner: Any
    wraps: ClassVar[type] = Denoiser
    takes: ClassVar[type[Space]] = Space

    @property
    def space(self) -> Any:
        return self.inner.space

    @property
    def domain(self) -> Any:
        return self.inner.domain

    @property
    def num_classes(self) -> int | None:
        return self.inner.num_classes

    def init(self, x: Any) -> Any:
        return self.inner.init(x)

    def start(self, key: Any, levels: Level, shape: tuple[int, ...]) -> Any:
        return self.inner.start(key, levels, shape)

    def check(self, levels: Level, shape: tuple[int, ...], cond: Any) -> None:
        self.check_inner()
        self.inner.check(levels, shape, cond)

    def check_inner(self) -> None:
        """Raise `Refused` unless `inner` is of the kind and of a space that this takes."""
        need(self, self.inner, self.wraps, "the inside")
        check_space(self, self.inner.space)


class KernelWrapper(Wrapper, Kernel):
    """A kernel made from the kernel `inner`; around a population it is a kernel of populations."""

    wraps: ClassVar[type] = Kernel

    @property
    def population(self) -> bool:
        return self.inner.population

    @property
    def overwritable(self) -> bool:
        return self.inner.overwritable

    def __call__(self, carry: Any, t: Level, s: Level, cond: Any, key: Any) -> Any:
        return self.inner(carry, t, s, cond, key)

    def finish(self, carry: Any, level: Level, cond: Any, key: Any) -> Any:
        return self.inner.finish(carry, level, cond, key)

    def moving(self, levels: Level) -> Level:
        return self.inner.moving(levels)
