"""What one part may ask of another: base classes with defaults, asked for by type. Nothing else is asked."""

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from guidance_jax.core.arithmetic import float_type, scalar
from guidance_jax.core.distributions import Distribution
from guidance_jax.core.levels import Level, Refused
from guidance_jax.core.pytrees import converted, function, pytree
from guidance_jax.core.spaces import GaussianDiffusion, Space

GAUSSIAN = GaussianDiffusion()


class Denoiser:
    """Says where the clean sample is. `state` is whatever it must remember from step to step; `()` for most.

    A subclass gives `__call__`; `init` if it remembers, `space` if it is not of images or vectors, `check` if it can
    refuse. `domain` (shape, schedule, classes) is what it was trained for, None if unknown.
    """

    domain: Any = None

    @property
    def space(self) -> Any:
        """What its samples are."""
        return GAUSSIAN

    @property
    def num_classes(self) -> int | None:
        """How many labels it knows, the null label aside; None if it does not say."""
        return None if self.domain is None else self.domain.num_classes

    def init(self, x: Any) -> Any:
        """The state before the first step, for a sample `x`."""
        return ()

    def __call__(self, x: Any, level: Level, cond: Any, state: Any, key: Any) -> tuple[Any, Any]:
        """(prediction, new state) at the noisy sample x."""
        raise NotImplementedError

    def start(self, key: Any, levels: Level, shape: tuple[int, ...]) -> Any:
        """What sampling starts from."""
        return self.space.start(key, levels, shape)

    def check(self, levels: Level, shape: tuple[int, ...], cond: Any) -> None:
        """Raise `Refused` for what it cannot honour.

        `sample` calls it once, before the loop, on the kernel; each part asks the parts inside. Numbers that are traced
        at that moment are not looked at, structure always is. `cond` carries whatever batch axes the caller has.
        """
        self.space.check(levels, shape)
        if self.domain is not None:
            self.domain.check(levels, shape, cond)


class HiddenStates(Denoiser):
    """A denoiser whose hidden states can be guided: its call is `read(logits_of(hidden(x)))`."""

    def hidden(self, x: Any, level: Level, cond: Any) -> Any:
        """The hidden states of one sample, usually (L, width)."""
        raise NotImplementedError

    def logits_of(self, h: Any, level: Level, cond: Any) -> Any:
        """The logits (L, V) that hidden states lead to."""
        raise NotImplementedError

    def read(self, logits: Any, x: Any, level: Level) -> Any:
        """The prediction that `logits` mean."""
        raise NotImplementedError


class Guide:
    """What steers: a classifier, a likelihood, a reward, a twist. `log_prob` in nats, `score` its gradient in x.

    Whether x is the noisy sample or the clean estimate is up to the method that asks, which says so.
    """

    domain: Any = None
    takes: ClassVar[type[Space]] = Space
    clean: ClassVar[bool] = False  # whether it judges clean samples alone

    @property
    def space(self) -> Any:
        """None: a guide judges the samples of any model whose space it takes."""
        return None

    def log_prob(self, x: Any, level: Level, cond: Any) -> Any:
        """log p(cond | x), a scalar in nats, up to a constant."""
        raise NotImplementedError

    def score(self, x: Any, level: Level, cond: Any) -> Any:
        """grad_x log p(cond | x), of the shape of x."""
        return jax.grad(self.value)(x, level, cond)

    def value(self, x: Any, level: Level, cond: Any) -> Any:
        """`log_prob`, which must be one number: what methods call."""
        return scalar(self.log_prob(x, level, cond), type(self).__name__)

    def check(self, levels: Level, shape: tuple[int, ...], cond: Any) -> None:
        """Raise `Refused` for samples or conditions that it cannot judge."""
        if self.domain is not None:
            self.domain.check(levels, shape, cond)


def check_arguments(owner: Any, f: Any, form: str) -> None:
    """Raise `Refused` unless the function `f` of `owner` can be called as `form` says, for example "x, level, cond"."""
    try:
        signature = inspect.signature(f)
    except (TypeError, ValueError):  # a callable without one
        return
    try:
        signature.bind(*form.split(", "))
    except TypeError:
        raise Refused(f"{type(owner).__name__} calls its function as f({form}), got one of {signature}") from None


@pytree
class GuideFunction(Guide):
    """A plain function as a guide.

    Attributes:
      f: f(x, level, cond) -> log p, a scalar in nats.
    """

    f: Any = converted(function)

    def __post_init__(self):
        check_arguments(self, self.f, "x, level, cond")

    def log_prob(self, x, level, cond):
        return self.f(x, level, cond)


def as_guide(f: Any) -> Any:
    """A `Guide` as it is, a function f(x, level, cond) -> log p as one; anything else is refused by `need` later."""
    return GuideFunction(f) if callable(f) and not isinstance(f, Guide | Denoiser | Kernel) else f


class Solver:
    """Moves from level `t` to the less noisy level `s`; `evaluate(x, level)` asks the denoiser again.

    `takes` is the class of spaces it solves for. A solver that asks the network between the levels holds its
    `schedule`, which must be that of the levels: the network would be told the wrong clock.
    """

    takes: ClassVar[type[Space]] = GaussianDiffusion
    schedule: Any = None

    @property
    def deterministic(self) -> bool:
        """Whether it is known to draw no noise."""
        return False

    def init(self, x: Any) -> Any:
        """Its history before the first step."""
        return ()

    def step(
        self, pred: Any, t: Level, s: Level, evaluate: Callable[[Any, Level], Any], state: Any, key: Any
    ) -> tuple[Any, Any]:
        """(x_s, new state) from the prediction at t."""
        raise NotImplementedError

    def check(self, levels: Level, shape: tuple[int, ...], cond: Any) -> None:
        """Raise `Refused` for levels that it cannot honour."""
        if self.schedule is not None:
            self.schedule.check(levels, f"{type(self).__name__} asks the network between the levels on")


class Stochastic(Solver):
    """A solver whose step is a draw of `transition(pred, t, s)`: what particle methods weigh."""

    def transition(self, pred: Any, t: Level, s: Level) -> Distribution:
        """p(x_s | x_t) as the prediction at t implies it."""
        raise NotImplementedError

    def step(self, pred, t, s, evaluate, state, key):
        return self.transition(pred, t, s).draw(key), state


class Kernel:
    """One reverse transition of everything that is carried; the carry has a field `x`.

    `takes` is the class of spaces it is for.
    """

    takes: ClassVar[type[Space]] = Space

    @property
    def space(self) -> Any:
        """What is sampled."""
        return GAUSSIAN

    @property
    def population(self) -> bool:
        """Whether the carry is a population of weighted particles: `populations` runs it, `generate` refuses."""
        return False

    @property
    def overwritable(self) -> bool:
        """Whether a wrapper may overwrite entries of x between steps, as infilling does, and the weights stay right."""
        return True

    def init(self, x: Any) -> Any:
        """The carry at the first level."""
        raise NotImplementedError

    def __call__(self, carry: Any, t: Level, s: Level, cond: Any, key: Any) -> Any:
        """The carry at s."""
        raise NotImplementedError

    def finish(self, carry: Any, level: Level, cond: Any, key: Any) -> Any:
        """The carry after the last step; populations get their last weights here."""
        return carry

    def moving(self, levels: Level) -> Level:
        """`levels` without steps that this kernel skips."""
        return levels

    def start(self, key: Any, levels: Level, shape: tuple[int, ...]) -> Any:
        """What sampling starts from."""
        return self.space.start(key, levels, shape)

    def check(self, levels: Level, shape: tuple[int, ...], cond: Any) -> None:
        """Raise `Refused` for what it cannot honour."""


class Move:
    """How one particle goes from level to level and what its log-weight gains; `SMC` does the rest.

    In the words of Feynman-Kac models: `potential` at a particle's level before it moves, `propose` the transition and
    the log-ratio of target and proposal, `final_potential` at the clean level. `takes` is the class of spaces it is
    for.
    """

    takes: ClassVar[type[Space]] = Space

    @property
    def overwritable(self) -> bool:
        """Whether entries of x may be overwritten: gains of those average to one."""
        return True

    @property
    def space(self) -> Any:
        """What a particle is."""
        return GAUSSIAN

    def start(self, key: Any, levels: Level, shape: tuple[int, ...]) -> Any:
        """What a population of `shape` (n, *event) starts from."""
        return self.space.start(key, levels, shape)

    def init(self, x: Any) -> Any:
        """What a particle carries besides x."""
        raise NotImplementedError

    def potential(self, x: Any, state: Any, t: Level, cond: Any, key: Any) -> tuple[Any, Any]:
        """(what `propose` needs, gain) at level t."""
        raise NotImplementedError

    def propose(self, found: Any, t: Level, s: Level, cond: Any, key: Any) -> tuple[Any, Any, Any]:
        """(x_s, state, gain)."""
        raise NotImplementedError

    def final_potential(self, x: Any, state: Any, level: Level, cond: Any, key: Any) -> Any:
        """The gain at the clean level."""
        return jnp.zeros((), float_type(x))

    def check(self, levels: Level, shape: tuple[int, ...], cond: Any) -> None:
        """Raise `Refused` for what it cannot honour; `shape` is one particle's."""


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
        """The state of `inner`."""
        return self.inner.init(x)

    def start(self, key: Any, levels: Level, shape: tuple[int, ...]) -> Any:
        """What sampling of `inner` starts from."""
        return self.inner.start(key, levels, shape)

    def check(self, levels: Level, shape: tuple[int, ...], cond: Any) -> None:
        """Raise `Refused` for what neither this nor `inner` can honour."""
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
        return isinstance(self.inner, Kernel) and self.inner.population  # what is no kernel, `check` refuses

    @property
    def overwritable(self) -> bool:
        return self.inner.overwritable

    def __call__(self, carry: Any, t: Level, s: Level, cond: Any, key: Any) -> Any:
        return self.inner(carry, t, s, cond, key)

    def finish(self, carry: Any, level: Level, cond: Any, key: Any) -> Any:
        return self.inner.finish(carry, level, cond, key)

    def moving(self, levels: Level) -> Level:
        need(self, self.inner, self.wraps, "the inside")
        return self.inner.moving(levels)


def innermost(part: Any) -> Any:
    """What all wrappers around `part` wrap."""
    while isinstance(part, Wrapper):
        part = part.inner
    return part


HINTS: dict[Any, tuple[str, str]] = {
    Denoiser: ("a denoiser", "wrap a function f(x, level, cond) -> x0 as Function(f)"),
    Guide: ("a guide", "pass a Guide or a function f(x, level, cond) -> log p"),
    Solver: ("a solver", "write Reverse(model, DDIM())"),
    Stochastic: ("a solver with a transition to weigh", "use DDPM(), DDIM(1.0) or Ancestral()"),
    Kernel: ("a kernel", "write Reverse(model, DDIM())"),
    Move: ("a move", "write SMC(BestOf(kernel, reward))"),
    HiddenStates: ("a denoiser with hidden states", "use HiddenNetwork(params, encode, decode, process)"),
}


def need(owner: Any, part: Any, kind: type[Any], place: str = "its part") -> None:
    """Raise `Refused` unless `part`, `place` of `owner`, is a `kind`, and what is inside it is what it wraps."""
    if not isinstance(part, kind):
        what, hint = HINTS.get(kind, (kind.__name__, f"pass a {kind.__name__}"))
        got = part.__name__ if isinstance(part, type) else type(part).__name__
        got += f" of {type(innermost(part)).__name__}" if isinstance(part, Wrapper) else ""
        name = owner if isinstance(owner, str) else type(owner).__name__
        raise Refused(f"{place} of {name} is {what}, got {got}; {hint}")
    if isinstance(part, Wrapper):
        need(part, part.inner, part.wraps, "the inside")


def check_space(owner: Any, space: Any) -> None:
    """Raise `Refused` unless `owner` takes samples of `space`: the one place where spaces meet."""
    if space is not None and not isinstance(space, owner.takes):
        name = type(owner).__name__
        instead = space.solver if isinstance(owner, Solver) else f"a method for {space.kind}"
        raise Refused(f"{name} is for {owner.takes.kind}, the model is of {space.kind}; use {instead}")
